package fake_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

func TestFollow(t *testing.T) {
	root := testenv.Dir(t)
	knobs := filepath.Join(root, "knobs.json")
	set := func(s string) {
		t.Helper()
		if err := os.WriteFile(knobs, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host := fake.NewHost()
	defer host.Close()
	d := fake.New(host, fake.Follow(host, knobs))
	spec := newSpec(t, root, "i-00000001")

	set(`{"fail":{"start.boot":"no luck"}}`)
	if _, err := d.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Fatalf("start: %v, want the failure of the file", err)
	}
	for _, bad := range []string{`{"fail":`, `{"fails":{}}`, `{"fail":{"begin":"x"}}`, `{"latency_ms":{"begin":1}}`, `{"guests":{"":{"quiet":true}}}`} {
		set(bad)
		if _, err := d.Start(t.Context(), spec); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Fatalf("start with the knob file %s: %v", bad, err)
		}
	}
	set(`{"guests":{"":{"busy":true}}}`)
	v, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	resp := call(t, v, guestproto.Request{WorkerStatus: true})
	if resp.WorkerStatus == nil || resp.WorkerStatus.Status != "busy" {
		t.Errorf("worker status %+v, want busy", resp.WorkerStatus)
	}
	if err := os.Remove(knobs); err != nil {
		t.Fatal(err)
	}
	resp = call(t, v, guestproto.Request{WorkerStatus: true})
	if resp.WorkerStatus == nil || resp.WorkerStatus.Status != "idle" {
		t.Errorf("worker status %+v, want idle", resp.WorkerStatus)
	}
}
