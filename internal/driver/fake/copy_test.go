package fake_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/filecopy"
	"mvm/internal/guestproto"
)

// copyOut has the guest send what is at the path, and returns what came and the exit code.
func copyOut(t *testing.T, v driver.VMM, path string) (data []byte, said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer guestproto.Bind(ctx, c)()
	if _, err := guestproto.Call(ctx, c, guestproto.Request{Copy: &guestproto.Copy{Path: path}}); err != nil {
		t.Fatal(err)
	}
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			t.Fatal(err)
		}
		data, said = append(data, f.Stdout...), said+string(f.Stderr)
		if f.Exit != nil {
			return data, said, f.Exit.Code
		}
	}
}

// A copy out of a fake guest has the files that were written there; what is not there is
// told from what can't be copied.
func TestCopyOut(t *testing.T) {
	host, _, _, v := boot(t, fake.Behavior{})
	call(t, v, configure("boot", 1))
	if err := host.Write("i-00000001", "/tmp/a", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if b, ok := host.Read("i-00000001", "/tmp/a"); !ok || string(b) != "hello" {
		t.Errorf("read %q, %v", b, ok)
	}
	if b, ok := host.Read("i-00000002", "/tmp/a"); ok || b != nil {
		t.Errorf("read of an instance that is not there: %q, %v", b, ok)
	}
	for range 2 {
		if g, ok := host.Guest("i-00000001"); !ok || g.State != fake.Running || !g.Gated || g.Generation != 1 || g.Config == nil || g.Config.Hostname != "worker" {
			t.Errorf("the guest is %+v, %v", g, ok)
		}
		if g, ok := host.Guest("i-00000002"); ok || g.Config != nil {
			t.Errorf("an instance that is not there is %+v", g)
		}
	}
	data, said, code := copyOut(t, v, "/tmp/a")
	if code != 0 || said != "" {
		t.Fatalf("copy: %d %q", code, said)
	}
	dir := t.TempDir()
	if _, err := filecopy.Receive(bytes.NewReader(data), filecopy.Target{Path: filepath.Join(dir, "b")}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "b")); err != nil || string(b) != "hello" {
		t.Errorf("copied %q, %v", b, err)
	}
	if _, said, code := copyOut(t, v, "/tmp/none"); code != 3 || !strings.Contains(said, "/tmp/none") || strings.Contains(said, "mvm-fake-guest") {
		t.Errorf("copy of what is not there: %d %q", code, said)
	}
	if _, said, code := copyOut(t, v, "/tmp/a/below"); code != 1 || said == "" {
		t.Errorf("copy of what can't be there: %d %q", code, said)
	}
}
