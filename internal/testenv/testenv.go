// Package testenv has what tests of several packages need of the machine: short
// folders, polling, the built binaries and images, and a look at what a test left
// behind. Only tests import it.
package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// NeedRoot skips the test when it does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network interfaces, mounts, or processes of other users")
	}
}

// Dir returns an empty folder with a path so short that unix sockets below it fit
// into the 107 bytes of their addresses, which t.TempDir does not promise. Other
// users can pass through it. It is removed at the test's end.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "mvm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's folder: %v", err)
		}
	})
	return dir
}

// Patience bounds what must happen, on the slowest machine: with both cores busy otherwise a
// process may stand still for seconds. It costs nothing where all is well.
const Patience = time.Minute

// Eventually calls ok until it returns nil, and fails the test with its last error
// when the time is over. The deadline is for the slowest machine: it costs nothing
// on a fast one.
func Eventually(t testing.TB, within time.Duration, ok func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(pause)
	}
}

// Cache returns the folder in which tests keep what is dear to make: MVM_TEST_CACHE,
// or mvm-test in the user's cache. It stays between runs.
func Cache(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("MVM_TEST_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(user, "mvm-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// SmallDisk mounts a file system of its own, with the size in KiB, for as long as the test
// runs.
func SmallDisk(t testing.TB, kib int) (dir string) {
	t.Helper()
	NeedRoot(t)
	dir = t.TempDir()
	if err := syscall.Mount("mvm-test", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Skipf("this machine allows no mounts, so no disk can be filled: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}
