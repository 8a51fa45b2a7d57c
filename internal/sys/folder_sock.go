package sys

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes a unix socket, 0600, and listens on it. What had its name before loses
// it. Closing the listener leaves the name: Remove takes it away. The folder's path may
// be of any length.
func (d *Folder) Listen(name string) (*net.UnixListener, error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	if err := d.Remove(name); err != nil {
		return nil, err
	}
	if err := seam(FolderListen, path); err != nil {
		return nil, err
	}
	private := func(_, _ string, c syscall.RawConn) error { // the socket's file gets the mode at bind
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(cerr, err)
	}
	lc := net.ListenConfig{Control: private}
	l, err := lc.Listen(context.Background(), "unix", procPath(d.f)+"/"+name)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, unwrapOp(err))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // by a path that means something else once the folder is closed
	return ul, nil
}

// unwrapOp takes the number of the folder's file out of an error's text.
func unwrapOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Peer says who may listen on a socket that is dialled: a process of this user, which
// made the socket, or one that has got it from this user.
type Peer struct {
	UID  int  // of the other user; 0: nobody
	PID  int  // the process of that user; 0: any
	Self bool // this very process alone
}

// Dial connects to a socket of this user or the peer in the folder. Who listens there must be this
// user or the peer, or else it is ErrForeign. QEMU's backlog is short: it may be full of
// connections that it has yet to see closed, and is tried again until ctx ends.
func (d *Folder) Dial(ctx context.Context, name string, from Peer) (*net.UnixConn, error) {
	held, st, err := d.look(name)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	var owners []int
	if from.UID != 0 {
		owners = []int{from.UID}
	}
	if err := check(held.Name(), st, unix.S_IFSOCK, owners); err != nil {
		return nil, err
	}
	conn, err := dialHeld(ctx, held)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.DeadlineExceeded // it was that of ctx
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", held.Name(), unwrapOp(err))
	}
	if err := from.check(held.Name(), conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func dialHeld(ctx context.Context, held *os.File) (*net.UnixConn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", procPath(held))
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// check asks the kernel who listens at the other end.
func (p Peer) check(path string, conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	uid, pid := int(cred.Uid), int(cred.Pid)
	switch {
	case p.Self && pid == os.Getpid(), !p.Self && uid == os.Geteuid():
		return nil
	case !p.Self && p.UID != 0 && uid == p.UID && (p.PID == 0 || pid == p.PID):
		return nil
	}
	return foreign(path, "a socket on which process %d of user %d listens", pid, uid)
}
