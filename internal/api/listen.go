package api

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"

	"mvm"
	"mvm/internal/sys"
)

// Listener is the agent's socket. It holds a lock beside it (<path>.lock), so that
// of two agents one gets the socket and what a dead one left is told from a live one.
type Listener struct {
	*net.UnixListener
	path string
	lock *os.File
	once sync.Once
	err  error // of Close
}

// Listen makes the socket: 0660 with the group, or 0600 where group is negative.
// The folder is made when it is missing. A socket that a dead agent left is replaced
// without a moment in which it is open to others; KindExists when one is alive.
func Listen(path string, group int) (_ *Listener, err error) {
	if len(path) > 100 {
		return nil, mvm.Errorf(mvm.KindInvalid, "socket path %s has more than 100 bytes", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make folder of socket: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	ln, err := bind(path, group)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "listen on %s: %w", path, err)
	}
	return &Listener{UnixListener: ln, path: path, lock: lock}, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := sys.LockFile(path, 0)
	if errors.Is(err, sys.ErrLocked) {
		return nil, mvm.Errorf(mvm.KindExists, "lock %s: another agent uses the socket", path).
			WithFix("use the running agent, or stop it first")
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindPolicy, "lock socket: %w", err).WithFix("put the socket into its own folder")
	}
	return f, nil
}

// bind makes the socket in a private folder, sets who may use it, and only then
// moves it to its name.
func bind(path string, group int) (*net.UnixListener, error) {
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	made := filepath.Join(tmp, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	mode := os.FileMode(0o600)
	if group >= 0 {
		mode = 0o660
		err = os.Chown(made, -1, group)
	}
	if err == nil {
		err = os.Chmod(made, mode)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Addr is the address that clients use.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close ends the listening, removes the socket and lets go of the lock. Whoever calls it,
// and however often: when it returns all that is done.
func (l *Listener) Close() error {
	l.once.Do(func() { l.err = l.close() })
	return l.err
}

func (l *Listener) close() error {
	err := l.UnixListener.Close()
	if e := os.Remove(l.path); !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, l.lock.Close())
}
