package host_test

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"mvm/internal/host"
)

// notified is a notify socket of systemd's, and what came to it.
type notified struct {
	t *testing.T
	c *net.UnixConn
}

func newNotified(t *testing.T) (n notified, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return notified{t, c}, path
}

// next is the next message, with the files that came with it.
func (n notified) next() (string, []int) {
	n.t.Helper()
	text, oob := make([]byte, 4096), make([]byte, 4096)
	size, rights, _, _, err := n.c.ReadMsgUnix(text, oob)
	if err != nil {
		n.t.Fatal(err)
	}
	var files []int
	ms, err := syscall.ParseSocketControlMessage(oob[:rights])
	if err != nil {
		n.t.Fatal(err)
	}
	for _, m := range ms {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			n.t.Fatal(err)
		}
		files = append(files, fds...)
	}
	return string(text[:size]), files
}

// What is said to systemd about a published port is what sd_pid_notify_with_fds(3) says.
func TestSystemdKeepsPorts(t *testing.T) {
	n, path := newNotified(t)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	store := host.FDStore(path)
	if err := store.Keep(at, l); err != nil {
		t.Fatal(err)
	}
	text, files := n.next()
	name := "publish-127.0.0.1_" + strconv.Itoa(int(at.Port()))
	if text != "FDSTORE=1\nFDNAME="+name || len(files) != 1 {
		t.Fatalf("systemd was told %q with %d files", text, len(files))
	}
	_ = l.Close()
	if c, err := net.Dial("tcp", at.String()); err != nil {
		t.Errorf("the port is closed though systemd has it: %v", err)
	} else {
		_ = c.Close()
	}
	forgot := make(chan error, 1)
	go func() { forgot <- store.Forget(at) }()
	if text, _ := n.next(); text != "FDSTOREREMOVE=1\nFDNAME="+name {
		t.Errorf("systemd was told %q", text)
	}
	_ = syscall.Close(files[0])
	text, barrier := n.next()
	if text != "BARRIER=1" || len(barrier) != 1 {
		t.Fatalf("systemd was told %q with %d files", text, len(barrier))
	}
	select {
	case err := <-forgot:
		t.Errorf("it did not wait until systemd was done: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	_ = syscall.Close(barrier[0])
	if err := <-forgot; err != nil {
		t.Error(err)
	}
}
