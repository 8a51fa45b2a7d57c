package testenv

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// WithoutRights calls f on a thread without any capability, as an unprivileged process
// has none; what f starts on other threads has them still. The thread is not used again.
func WithoutRights(t testing.TB, f func()) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: it ends with this goroutine
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		err := unix.Capset(&hdr, &none[0])
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatalf("give up capabilities: %v", err)
	}
}
