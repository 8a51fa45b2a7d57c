package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ErrLocked says that another process holds a lock.
var ErrLocked = errors.New("another process has locked it")

// lockPoll is how often a held lock is tried again.
const lockPoll = 50 * time.Millisecond

// LockFile opens the file, made with mode 0600 when it is not there, and takes its lock
// (flock), waiting that long for another holder; then it is ErrLocked. The lock is held
// until the file is closed, and no process started from this one has it. A file that
// anybody but root and this user could have put there, or could open, is refused: it
// may keep the lock from whom it is for.
func LockFile(path string, wait time.Duration) (*os.File, error) {
	if err := ownFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symlink", path)
	}
	if err != nil {
		return nil, err
	}
	if err := ownFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for end := time.Now().Add(wait); ; time.Sleep(lockPoll) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		case !time.Now().Before(end):
			return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrLocked), f.Close())
		}
	}
}

// ownFolder refuses a folder in which other users can make files.
func ownFolder(dir string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	switch {
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("its folder %s belongs to user %d", dir, st.Uid)
	case st.Mode&0o002 != 0:
		return fmt.Errorf("its folder %s can be written by every user (mode %04o)", dir, st.Mode&0o7777)
	}
	return nil
}

// ownFile refuses a file that other users have made, or can open.
func ownFile(f *os.File) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return fmt.Errorf("%s is not a regular file", f.Name())
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("%s belongs to user %d", f.Name(), st.Uid)
	case st.Nlink != 1:
		return fmt.Errorf("%s has %d names", f.Name(), st.Nlink)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s can be opened by other users (mode %04o)", f.Name(), st.Mode&0o7777)
	}
	return nil
}
