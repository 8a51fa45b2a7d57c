package fakevmm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Is reports that this program is to be Firecracker: it runs under that name.
func Is() bool {
	exe, err := os.Executable()
	return err == nil && filepath.Base(exe) == "firecracker"
}

// Install copies this test program to where every user may run it, as firecracker, and
// returns the folder.
func Install(t testing.TB) (dir string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "mvm-firecracker-")
	must(err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(os.Chmod(dir, 0o755))
	self, err := os.Executable()
	must(err)
	from, err := os.Open(self)
	must(err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "firecracker"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	must(err)
	_, err = io.Copy(to, from)
	must(errors.Join(err, to.Close()))
	requests := filepath.Join(dir, RequestsFile)
	must(os.WriteFile(requests, nil, 0o666))
	must(os.Chmod(requests, 0o666))
	return dir
}
