package linuxnet_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// testNS is a network namespace of a test's own. It ends with the test.
type testNS struct {
	t    testing.TB
	path string
	file *os.File
}

func newNamespace(t testing.TB) *testNS {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	ns := &testNS{t: t}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		opened <- err
	}()
	if err := <-opened; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	ns.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
	t.Cleanup(func() { _ = ns.file.Close() })
	ns.run("ip", "link", "set", "lo", "up")
	return ns
}

// do runs fn with its thread in the namespace.
func (ns *testNS) do(fn func()) {
	ns.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		ns.t.Fatalf("enter the test's network namespace: %v", err)
	}
}
