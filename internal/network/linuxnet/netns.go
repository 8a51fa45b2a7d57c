package linuxnet

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"mvm"
)

// namespace is the network namespace to work in; a nil file means the process's own.
type namespace struct{ file *os.File }

func openNamespace(path string) (namespace, error) {
	if path == "" {
		return namespace{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return namespace{}, mvm.Errorf(mvm.KindInvalid, "open network namespace: %w", err)
	}
	return namespace{f}, nil
}

// fd returns the namespace's file descriptor, 0 for the process's own.
func (n namespace) fd() int {
	if n.file == nil {
		return 0
	}
	return int(n.file.Fd())
}

func (n namespace) close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// do runs fn with its thread in the namespace. fn must not start goroutines that
// need the namespace.
func (n namespace) do(fn func() error) error {
	if n.file == nil {
		return fn()
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
			errs <- mvm.Errorf(mvm.KindInternal, "enter network namespace %s: %w", n.file.Name(), err)
			return
		}
		errs <- fn()
	}()
	return <-errs
}
