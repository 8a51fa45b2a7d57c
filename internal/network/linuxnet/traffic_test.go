package linuxnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/network/linuxnet"
)

// guest is a machine with Linux's own network stack, in a namespace, behind the TAP
// of an instance, as a VM would be.
type guest struct {
	*testNS
	ip string
}

// guest boots the guest of a name like a3.
func (w *world) guest(name string) *guest {
	w.t.Helper()
	g := &guest{testNS: newNamespace(w.t)}
	netID := map[byte]int{'a': 3, 'z': 4, 'b': 5}[name[0]]
	offset := int(name[1] - '0')
	g.ip = fmt.Sprintf("10.240.%d.%d", netID, offset)
	outer := w.tap(name)
	var inner *os.File
	g.do(func() { inner = openGuestTAP(w.t) })
	w.taps["inside "+name] = inner
	g.run("ip", "link", "set", "eth0", "address", fmt.Sprintf("02:fc:00:%02x:00:%02x", netID, offset))
	g.run("ip", "addr", "add", g.ip+"/24", "dev", "eth0")
	g.run("ip", "link", "set", "eth0", "up")
	g.run("ip", "route", "add", "default", "via", fmt.Sprintf("10.240.%d.1", netID))
	for _, pair := range [][2]*os.File{{outer, inner}, {inner, outer}} {
		w.wg.Go(func() {
			b := make([]byte, 70000)
			for {
				n, err := pair[0].Read(b)
				if err != nil {
					return
				}
				if _, err := pair[1].Write(b[:n]); errors.Is(err, os.ErrClosed) {
					return
				}
			}
		})
	}
	return g
}

func openGuestTAP(t testing.TB) *os.File {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		var ifr *unix.Ifreq
		if ifr, err = unix.NewIfreq("eth0"); err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
	}
	if err != nil {
		t.Errorf("make the guest's interface: %v", err)
	}
	return os.NewFile(uintptr(fd), "eth0")
}

// dial connects within the namespace.
func (ns *testNS) dial(to string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	var err error
	ns.do(func() {
		d := net.Dialer{Timeout: timeout, FallbackDelay: -1}
		c, err = d.Dial("tcp4", to)
	})
	return c, err
}

// echo answers every connection in the namespace with what it sends, and returns
// the addresses that it came from on the channel.
func (w *world) echo(ns *testNS, at string) <-chan string {
	w.t.Helper()
	var l net.Listener
	var err error
	ns.do(func() { l, err = net.Listen("tcp4", at) })
	if err != nil {
		w.t.Fatalf("listen at %s: %v", at, err)
	}
	w.hostTCP = append(w.hostTCP, l)
	from := make(chan string, 1000)
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr().String()
			w.closeLater(c)
			w.wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	return from
}

// talk sends bytes to and fro over a new connection.
func talk(ns *testNS, to string, bytesSent int) error {
	c, err := ns.dial(to, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return echoOver(c, bytesSent)
}

func echoOver(c net.Conn, n int) error {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	sent := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	errs := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		errs <- err
	}()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(c, got)
	err = errors.Join(err, <-errs)
	if err == nil && !bytes.Equal(sent, got) {
		err = errors.New("other bytes came back")
	}
	return err
}

// TestTraffic has guests with a whole network stack do what they may, and try what
// they may not.
func TestTraffic(t *testing.T) {
	t.Parallel()
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables "+nf, func(t *testing.T) {
			w := newWorld(t, nf, linuxnet.Options{})
			a3, a4, z3 := w.guest("a3"), w.guest("a4"), w.guest("z3")
			w.echo(a4.testNS, ":22")
			w.echo(z3.testNS, ":22")
			w.echo(a3.testNS, ":22")
			w.echo(w.host, fmt.Sprintf(":%d", portAcme))
			w.echo(w.host, fmt.Sprintf(":%d", portTCP))
			seen := w.echo(w.outside, ":443")

			for _, c := range []struct {
				name string
				from *testNS
				to   string
			}{
				{"guest to its neighbour", a3.testNS, "10.240.3.4:22"},
				{"guest to its host port", a3.testNS, "10.240.3.1:8080"},
				{"guest to the outside", a3.testNS, "192.0.2.2:443"},
				{"host to guest", w.host, "10.240.3.3:22"},
				{"host to another tenant's guest", w.host, "10.240.4.3:22"},
				{"host to its own port on the gateway address", w.host, "10.240.3.1:8080"},
			} {
				if err := talk(c.from, c.to, 1<<20); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
			if code := a3.busybox([]string{"ping", "-c", "1", "-W", "10", "-s", "5000", a4.ip}); code > 0 && code != 127 {
				t.Errorf("guest to its neighbour in fragments: ping exits %d", code)
			}
			if from := <-seen; !strings.HasPrefix(from, "192.0.2.1:") {
				t.Errorf("the outside saw %s, want the host's address", from)
			}
			for _, c := range []struct {
				name string
				from *testNS
				to   string
			}{
				{"guest to another tenant's guest", a3.testNS, "10.240.4.3:22"},
				{"guest to another tenant's host port", a3.testNS, "10.240.4.1:9090"},
				{"guest to a port of the host", a3.testNS, "10.240.3.1:7778"},
				{"guest to its host port on another tenant's gateway", z3.testNS, "10.240.3.1:8080"},
				{"guest to its host port on the host's address", a3.testNS, "192.0.2.1:8080"},
				{"outside to guest", w.outside, "10.240.3.3:22"},
				{"outside to a tenant's host port", w.outside, "10.240.3.1:8080"},
			} {
				if conn, err := c.from.dial(c.to, 500*time.Millisecond); err == nil {
					conn.Close()
					t.Errorf("%s: connected to %s", c.name, c.to)
				}
			}
		})
	}
}

// TestHostPortTakenAway shows that open connections to a host port end with it.
func TestHostPortTakenAway(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	a3 := w.guest("a3")
	w.echo(w.host, fmt.Sprintf(":%d", portAcme))
	c, err := a3.dial("10.240.3.1:8080", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := echoOver(c, 160); err != nil {
		t.Fatalf("before: %v", err)
	}
	w.cfg.Tenants[0].HostPorts = nil
	if err := w.net.Apply(context.Background(), w.cfg); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(700 * time.Millisecond))
	_, werr := c.Write([]byte("still there?"))
	if _, err := c.Read(make([]byte, 1)); werr == nil && err == nil {
		t.Error("the connection goes on after the port was taken away")
	}
}

// TestConnectionLimit shows that a guest cannot hold more connections than it may,
// and that its neighbour still gets through.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	const limit = 8
	w := newWorld(t, "0", linuxnet.Options{MaxConns: limit})
	a3, a4 := w.guest("a3"), w.guest("a4")
	w.echo(w.outside, ":443")
	open := 0
	for range limit * 2 {
		c, err := a3.dial("192.0.2.2:443", 300*time.Millisecond)
		if err == nil {
			open++
			defer c.Close()
		}
	}
	if open < limit/2 || open > limit {
		t.Errorf("connections open: got %d, want about %d and not more", open, limit)
	}
	if err := talk(a4.testNS, "192.0.2.2:443", 1600); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
}

// TestHostReachesGuestAtOnce shows that the host reaches a guest as soon as its TAP is
// open, without waiting for ARP or for the bridge to wake up.
func TestHostReachesGuestAtOnce(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for round := range 5 {
		f := w.tap("a3")
		m := marker(round)
		if _, err := w.hostUDP[0].WriteToUDP(m, &net.UDPAddr{IP: net.IP(ipA3.AsSlice()), Port: 9}); err != nil {
			t.Fatal(err)
		}
		_ = f.SetReadDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 2000)
		n, err := f.Read(b)
		if err != nil || markerIn(b[:n]) != string(m) {
			t.Errorf("round %d: the first frame that the guest got is %x, %v, want the host's packet", round, b[:n], err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if !eventually(10*time.Second, func() bool { return !strings.Contains(strings.Join(w.host.links(), " "), "tn3i3") }) {
			t.Fatal("the TAP stays after it was closed")
		}
	}
}
