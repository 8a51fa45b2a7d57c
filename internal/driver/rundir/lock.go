package rundir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// lockTimeout is for a VMM that is just going away.
const lockTimeout = 5 * time.Second

// Lock takes the instance's VMM lock; the file goes on to the VMM, so that the
// lock is held for as long as either lives. KindState when a VMM has it.
func Lock(runDir string) (f *os.File, err error) {
	err = sys.InFolder(runDir, func(d *sys.Folder) (err error) {
		f, err = lockIn(d)
		return err
	})
	return f, mvm.Explain("open the VMM's lock", err)
}

func lockIn(d *sys.Folder) (*os.File, error) {
	for {
		f, err := d.OpenOrCreate(LockFile, os.O_RDWR)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, locked(f)
		}
		if err != nil {
			return nil, errors.Join(mvm.Errorf(mvm.KindInternal, "lock %s: %w", f.Name(), err), f.Close())
		}
		if d.IsNamed(f, LockFile) {
			return f, nil
		}
		f.Close() // removed between open and lock
	}
}

// Unlock removes the lock file that f holds, and lets go.
func Unlock(runDir string, f *os.File) error {
	err := sys.InFolder(runDir, func(d *sys.Folder) error {
		if d.IsNamed(f, LockFile) {
			return d.Remove(LockFile)
		}
		return nil
	})
	return errors.Join(sys.IfThere(err), f.Close())
}

// removeLock removes the lock file, whoever holds it.
func removeLock(runDir string) error {
	return sys.InFolder(runDir, func(d *sys.Folder) error { return d.RemoveAll(LockFile) })
}

// LockToStart takes the lock for a VMM that is to be started, waiting a little for one that
// is going away. KindInvalid where there is no RunDir.
func LockToStart(ctx context.Context, runDir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		f, err := Lock(runDir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, noFolder(runDir, err)
		}
		if !mvm.IsKind(err, mvm.KindState) || ctx.Err() != nil {
			return f, err
		}
		if _, rerr := ReadRecord(runDir); rerr == nil {
			return nil, err // a VMM that lives
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// LockState waits for the lock of a folder in which one process at a time tries something
// out. what it waits for is for the error.
func LockState(ctx context.Context, dir, what string) (*os.File, error) {
	for {
		f, err := Lock(dir)
		if !mvm.IsKind(err, mvm.KindState) {
			return f, err
		}
		if pause(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return nil, mvm.Errorf(mvm.KindTimeout, "wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// lockAny waits for the lock while the holder of a VMM that just ended cleans up.
func lockAny(ctx context.Context, runDir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		f, err := Lock(runDir)
		if !mvm.IsKind(err, mvm.KindState) || ctx.Err() != nil {
			return f, err
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
