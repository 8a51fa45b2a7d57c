package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"mvm/internal/publish"
)

// fdStore is where systemd holds open files of this service while it restarts: see
// sd_pid_notify_with_fds(3) and FileDescriptorStoreMax= in systemd.service(5).
type fdStore struct{ socket string }

// barrier bounds the wait until systemd has read what it was told.
const barrier = 5 * time.Second

// keptListeners returns systemd's store for this service, nil where it has none, and the
// published ports that it held since the process before.
func keptListeners(log *slog.Logger) (publish.Keeper, []*net.TCPListener) {
	var kept []*net.TCPListener
	for _, f := range activation.Files(true) {
		if !strings.HasPrefix(f.Name(), fdPrefix) {
			_ = f.Close()
			continue
		}
		l, err := net.FileListener(f)
		_ = f.Close()
		if tcp, ok := l.(*net.TCPListener); ok {
			kept = append(kept, tcp)
			continue
		}
		log.Warn("a file that systemd kept is no TCP listener", "name", f.Name(), "error", err)
	}
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil, kept
	}
	return &fdStore{socket}, kept
}

// fdPrefix begins the names of published ports in the store.
const fdPrefix = "publish-"

// fdName names the address in the store: a name has no colon.
func fdName(at netip.AddrPort) string { return fdPrefix + strings.ReplaceAll(at.String(), ":", "_") }

// Keep implements publish.Keeper.
func (s *fdStore) Keep(at netip.AddrPort, l *net.TCPListener) error {
	return s.tell("FDSTORE=1\nFDNAME="+fdName(at), l)
}

// Forget implements publish.Keeper.
func (s *fdStore) Forget(at netip.AddrPort) error {
	if err := s.tell("FDSTOREREMOVE=1\nFDNAME="+fdName(at), nil); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	defer func() { _ = r.Close() }()
	err = s.tell("BARRIER=1", w)
	_ = w.Close()
	if err != nil {
		return err
	}
	_ = r.SetReadDeadline(time.Now().Add(barrier))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // systemd closes its end once all before is done
		return fmt.Errorf("wait until systemd has closed %s: %w", at, err)
	}
	return nil
}

// tell sends systemd a message, with the open file where there is one.
func (s *fdStore) tell(text string, open syscall.Conn) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	limit := unix.NsecToTimeval(int64(barrier))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	send := func(rights []byte) {
		if err == nil {
			err = unix.Sendmsg(fd, []byte(text), rights, &unix.SockaddrUnix{Name: s.socket}, unix.MSG_NOSIGNAL)
		}
	}
	if open == nil {
		send(nil)
	} else if raw, e := open.SyscallConn(); e != nil {
		err = e
	} else if e := raw.Control(func(fd uintptr) { send(unix.UnixRights(int(fd))) }); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
