package desired_test

import (
	"encoding/json"
	"testing"

	"mvm"
	"mvm/internal/desired"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{example(f), formats, minimal("", ""), "", "{", "null", `{"tenants":[{"pools":[{"env":{"":null}}]}]}`, `[[[[[]]]]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := desired.Decode(data)
		if err != nil {
			if !mvm.IsKind(err, mvm.KindInvalid) || len(err.Error()) > 32<<10 {
				t.Fatalf("got an error of %d bytes and kind %s: %.200v", len(err.Error()), mvm.KindOf(err), err)
			}
			return
		}
		if !json.Valid(data) || d.Validate() != nil {
			t.Fatalf("took %q", data)
		}
		for _, dep := range d.Deployments() {
			if err := dep.Validate(); err != nil {
				t.Fatalf("took a document whose deployment is refused: %v", err)
			}
		}
		b, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := desired.Decode(b); err != nil {
			t.Fatalf("refuses what it wrote: %v", err)
		}
	})
}
