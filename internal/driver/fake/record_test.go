package fake_test

import (
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/testenv"
)

// TestHalfWritten leaves the files that a process killed while it wrote leaves: the
// next one that has to do with the instance takes them away.
func TestHalfWritten(t *testing.T) {
	host := fake.NewHost()
	defer host.Close()
	d, spec := fake.New(host, fake.Options{}), newSpec(t, testenv.Dir(t), "i-00000001")
	half := filepath.Join(spec.Dir, "fake-tmp-1234567")
	takesAway := func(what string, fn func() error) {
		t.Helper()
		if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := fn(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := os.Stat(half); err == nil {
			t.Errorf("%s leaves %s", what, half)
		}
	}
	var v driver.VMM
	takesAway("start", func() (err error) { v, err = d.Start(t.Context(), spec); return })
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := fake.NewHost() // as after the agent's death: only files tell of the VMM
	defer next.Close()
	d = fake.New(next, fake.Options{})
	takesAway("recover", func() error { _, err := d.Recover(t.Context(), spec); return err })
	takesAway("destroy", func() error { return d.Destroy(t.Context(), spec) })
}
