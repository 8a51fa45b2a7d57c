package gateway_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// control calls fn with the connection's descriptor.
func control(t *testing.T, c *net.TCPConn, fn func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = fn(int(fd)) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// standStill has nothing more come on the connection, as from a guest whose vCPUs stand
// still.
func standStill(t *testing.T, c *net.TCPConn) {
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	control(t, c, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
}

// TestInstanceThatStandsStill: nobody says that the instance is gone, and it acknowledges
// nothing: what is sent to it is answered with an error.
func TestInstanceThatStandsStill(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Silent: 400 * time.Millisecond}}, webRoute("web", 80, "/", anyOne), tcpRoute("ssh", 22, "", anyOne))
	l.instance(ip3, named("three"))
	l.tcp(ip3, echo)
	l.want(80, "/", 200, "three")
	tcp := l.raw(22, netip.Addr{})
	tell(t, tcp, "hello")
	for _, c := range l.connected() {
		standStill(t, c)
	}
	began := time.Now()
	if code, _, got := l.do("POST", 80, "/", "once"); code != 502 {
		t.Errorf("a request on a pooled connection: %d %q, want 502", code, got)
	}
	_, _ = io.WriteString(tcp, "anybody there?")
	if _, err := tcp.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a stream: %v, want its end", err)
	}
	t.Logf("told after %s", time.Since(began))
}

// TestProbesWhileAwake: the kernel probes connections to an instance that is awake, and
// none to one that sleeps, which would not answer.
func TestProbesWhileAwake(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, echo)
	c := l.raw(22, netip.Addr{})
	probed := func() bool {
		t.Helper()
		on := 0
		for _, back := range l.connected() {
			control(t, back, func(fd int) (err error) {
				on, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				return err
			})
		}
		return on == 1
	}
	tell(t, c, "hello")
	if !probed() {
		t.Error("it is awake, and not probed")
	}
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	if probed() {
		t.Error("it sleeps, and is probed")
	}
	tell(t, c, "wake up")
	if !probed() {
		t.Error("it is awake again, and not probed")
	}
}
