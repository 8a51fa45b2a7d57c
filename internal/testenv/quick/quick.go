// Package quick has folders for tests that write durably all the time.
package quick

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// room is what the memory's file system must have free, so that tests beside each other
// don't fill it.
const room = 1 << 30

// Dir returns a new folder, removed at the end of the test: in memory, where an fsync costs
// nothing, if the machine has room there, else on disk. Its path is short enough for unix
// sockets in it. What the test proves must not depend on which of the two it is.
func Dir(t testing.TB) string {
	t.Helper()
	parent := ""
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err == nil && st.Bavail*uint64(st.Bsize) >= room {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "mvm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
