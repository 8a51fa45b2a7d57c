package store

import (
	"runtime/debug"

	"mvm"
)

// guarded runs fn, which reads the file, and returns an error where the library panics on
// what it finds there: a file that was cut off or overwritten, which is mapped into memory.
func guarded(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damagedError(path, p)
		}
	}()
	return fn()
}

func damagedError(path string, why any) error {
	return mvm.Errorf(mvm.KindInternal, "open state %s: not a state file, or damaged: %v", path, why).
		WithFix("restore it from a backup")
}
