package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a held lock is tried again; flock itself can't be cancelled.
const lockPoll = 100 * time.Millisecond

// FileLock is a lock between processes and goroutines: each holder has the file open
// on its own. It ends with the process that holds it.
type FileLock struct{ f *os.File }

// LockShared takes the lock together with others that share it, LockExclusive alone.
// They wait until ctx ends; waiting, when not nil, is called once if they must.
func LockShared(ctx context.Context, path string, waiting func()) (*FileLock, error) {
	return lockFile(ctx, path, unix.LOCK_SH, waiting)
}

// LockExclusive is described at LockShared.
func LockExclusive(ctx context.Context, path string, waiting func()) (*FileLock, error) {
	return lockFile(ctx, path, unix.LOCK_EX, waiting)
}

func lockFile(ctx context.Context, path string, how int, waiting func()) (*FileLock, error) {
	l, err := tryLock(path, how)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return l, err
	}
	if waiting != nil {
		waiting()
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
		if l, err = tryLock(path, how); !errors.Is(err, unix.EWOULDBLOCK) {
			return l, err
		}
	}
}

// tryLock returns an error that is EWOULDBLOCK when somebody else holds the lock.
func tryLock(path string, how int) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return flock(f, how)
}

// TryExclusive takes the lock alone, or returns EWOULDBLOCK where somebody has it.
func TryExclusive(path string) (*FileLock, error) { return tryLock(path, unix.LOCK_EX) }

// holdDir locks a folder, or returns EWOULDBLOCK where somebody has it locked.
func holdDir(path string) (*FileLock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return flock(f, unix.LOCK_EX)
}

func flock(f *os.File, how int) (_ *FileLock, err error) {
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &FileLock{f}, nil
}

// Unlock gives the lock back. The file stays: removing it would let two holders in.
func (l *FileLock) Unlock() error { return l.f.Close() }
