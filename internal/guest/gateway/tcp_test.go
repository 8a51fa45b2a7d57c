package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// tcpRoute is a plain TCP route to the instance's port 22.
func tcpRoute(name string, port int, source string, s mvm.Selector) mvm.Route {
	return mvm.Route{Name: name, Match: mvm.MatchRule{Port: port, SourceCIDR: source},
		To: mvm.Target{PoolID: "workers", Selector: s, TargetPort: 22}}
}

// tcp serves connections to the instance's port 22.
func (l *lab) tcp(ip netip.Addr, serve func(*net.TCPConn)) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				serve(c.(*net.TCPConn))
			})
		}
	})
	l.t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	l.place(ip.String()+":22", ln.Addr().String())
}

// wantReset connects, sends and wants to be cut off.
func (l *lab) wantReset(what string, port int, from string, send []byte) {
	l.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: netip.MustParseAddr(from).AsSlice()}}
	c, err := d.Dial("tcp", l.at(port))
	if err == nil { // or the reset was there already
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Write(send); err == nil {
			_, err = c.Read(make([]byte, 1))
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		l.t.Errorf("%s: got %v, want a reset", what, err)
	}
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c); _ = c.CloseWrite() }

// tell sends a line over an echoing connection.
func tell(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("told %q, got %q, %v", line, got, err)
	}
}

func TestTCPBothWaysWithHalfClose(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, echo)
	c := l.raw(22, netip.Addr{})
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	go func() { _, _ = c.Write(sent); _ = c.(*net.TCPConn).CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
	eventually(t, "the connection has ended", func() bool { return l.router.Active() == 0 })
}

func TestTCPSourceDecides(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("lo2", 22, "127.0.0.2/32", anyOne))
	l.tcp(ip3, echo)
	tell(t, l.raw(22, netip.MustParseAddr("127.0.0.2")), "in")
	l.wantReset("a source without a route", 22, "127.0.0.3", nil)
}

func TestTCPRefusalsReset(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Refused: time.Millisecond}}, tcpRoute("ssh", 22, "", anyOne))
	for name, script := range map[string]func(){
		"refused by the host":     func() { l.host.script(refuses("quota", 0)) },
		"not accepting":           func() { l.host.script(says(awake3)) },
		"no answer from the host": func() { l.host.script(broken) },
	} {
		script()
		l.wantReset(name, 22, "127.0.0.2", nil)
	}
}

func TestParkedTCPWakesItsInstance(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Quiet: time.Millisecond}}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, echo)
	c := l.raw(22, netip.Addr{})
	tell(t, c, "hello")
	eventually(t, "quiet", func() bool { return l.router.Active() == 0 })
	if n := l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}); n != 0 {
		t.Errorf("Fence of a quiet connection = %d, want 0", n)
	}
	tell(t, c, "wake up")
	if asked := l.host.asked(); len(asked) != 2 || asked[1].IP != ip3 {
		t.Errorf("asked %+v, want the instance by its address", asked)
	}
}

func TestFenceInterruptsAWriteThatIsStuck(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("ssh", 22, "", anyOne))
	read := make(chan struct{})
	l.tcp(ip3, func(c *net.TCPConn) { <-read; echo(c) })
	c := l.raw(22, netip.Addr{})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the socket buffers hold
	go func() { _, _ = c.Write(sent); _ = c.(*net.TCPConn).CloseWrite() }()
	eventually(t, "the write is stuck", func() bool { return l.router.Stuck() })
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	eventually(t, "the host is asked for the rest", func() bool { return len(l.host.asked()) == 2 })
	close(read)
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
}

func TestFenceDuringAWriteWakesTheInstance(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, echo)
	c := l.raw(22, netip.Addr{})
	tell(t, c, "hello")
	l.atWrite(func() { // what is written may then reach a sleeping instance
		l.atWrite(nil)
		l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	})
	tell(t, c, "in between")
	eventually(t, "the host is asked", func() bool { return len(l.host.asked()) == 2 })
}

func TestProxyHeaderOnPublishedPort(t *testing.T) {
	l := newLab(t, gateway.Limits{Head: 100 * time.Millisecond}, tcpRoute("ssh", 8443, "192.0.2.0/24", anyOne),
		tcpRoute("other", 9000, "192.0.2.0/24", anyOne))
	l.tcp(ip3, echo)
	header := func(src string) []byte {
		return guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort(src), netip.MustParseAddrPort("127.0.0.1:8443"))
	}
	in := l.raw(8443, bridge)
	_, _ = in.Write(header("192.0.2.7:999"))
	tell(t, in, "from outside")
	for name, c := range map[string]struct {
		port  int
		from  string
		bytes []byte
	}{
		"a source without a route":       {8443, "127.0.0.9", header("198.51.100.1:1")},
		"no header from the host":        {8443, "127.0.0.9", []byte("SSH-2.0-x\r\nSSH-2.0-x\r\n")},
		"nothing from the host":          {8443, "127.0.0.9", nil},
		"half a header":                  {8443, "127.0.0.9", header("192.0.2.7:1")[:20]},
		"header from a neighbour":        {8443, "127.0.0.2", header("192.0.2.7:1")},
		"header on a port not published": {9000, "127.0.0.9", header("192.0.2.7:1")},
	} {
		l.wantReset(name, c.port, c.from, c.bytes)
	}
	if n := l.dials("10.240.5.3:22"); n != 1 {
		t.Errorf("%d connections reached the instance, want the first alone", n)
	}
}

func TestProxyHeaderBeforeHTTP(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 8443, "/", anyOne))
	l.instance(ip3, named("three"))
	get := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	header := string(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.7:1"), netip.MustParseAddrPort("127.0.0.1:1")))
	for _, c := range []struct{ from, sent, want string }{
		{"127.0.0.9", header + get, "HTTP/1.1 200"},
		{"127.0.0.2", get, "HTTP/1.1 200"},
		{"127.0.0.2", header + get, "HTTP/1.1 400"},
	} {
		conn := l.raw(8443, netip.MustParseAddr(c.from))
		_, _ = io.WriteString(conn, c.sent)
		got, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), c.want) {
			t.Errorf("from %s with %.8q…: %.60q, want %s", c.from, c.sent, got, c.want)
		}
	}
}

func TestSlowAndOversizedHeads(t *testing.T) {
	l := newLab(t, gateway.Limits{Head: 50 * time.Millisecond, HeadBytes: 4 << 10}, webRoute("web", 80, "/", anyOne),
		webRoute("json", 80, "/j", byKey("json:/id")))
	l.instance(ip3, named("three"))
	slow := l.raw(80, netip.Addr{})
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\nX-")
	if _, err := io.ReadAll(slow); errors.Is(err, syscall.EAGAIN) || isTimeout(err) {
		t.Errorf("a head that does not come is waited for: %v", err)
	}
	big := l.raw(80, netip.Addr{})
	go func() {
		_, _ = fmt.Fprintf(big, "GET / HTTP/1.1\r\nHost: x\r\nX-Big: %s\r\n\r\n", strings.Repeat("x", 1<<20))
	}()
	buf := make([]byte, 12)
	if _, err := io.ReadFull(big, buf); err == nil && string(buf) != "HTTP/1.1 431" {
		t.Errorf("an oversized head got %q", buf)
	}
	l.want(80, "/", 200, "three")
}

func TestSlowKeyBody(t *testing.T) {
	l := newLab(t, gateway.Limits{KeyBodyTime: 50 * time.Millisecond, KeyBodies: 8 << 10}, webRoute("json", 80, "/", byKey("json:/id")))
	l.instance(ip3, named("three"))
	slow := l.raw(80, netip.Addr{})
	_, _ = io.WriteString(slow, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	buf := make([]byte, 12)
	if _, err := io.ReadFull(slow, buf); err != nil || string(buf) != "HTTP/1.1 408" {
		t.Errorf("a slow body got %q, %v", buf, err)
	}
	code, _, got := l.do("POST", 80, "/", `{"id":"a","x":"`+strings.Repeat("x", 20<<10)+`"}`)
	if code != 503 || !strings.Contains(got, "too many bodies") {
		t.Errorf("past the budget: %d %q", code, got)
	}
	for range 5 { // the budget is given back, soon after the answer
		eventually(t, "there is room for a body", func() bool {
			code, _, _ := l.do("POST", 80, "/", `{"id":"a"}`)
			return code == 200
		})
	}
}

func TestSmuggling(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	for name, head := range map[string]string{
		"two lengths":         "Content-Length: 5\r\nContent-Length: 6\r\n",
		"bad length":          "Content-Length: +5\r\n",
		"unknown coding":      "Transfer-Encoding: xchunked\r\n",
		"space before colon":  "Transfer-Encoding : chunked\r\n",
		"header with newline": "X: a\x00b\r\n",
		"two hosts":           "Host: y\r\n",
	} {
		c := l.raw(80, netip.Addr{})
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+head+"\r\nhello")
		buf := make([]byte, 10)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "HTTP/1.1 4" && string(buf) != "HTTP/1.1 5" {
			t.Errorf("%s: %q, %v; want a refusal", name, buf, err)
		}
	}
	if n := l.dials("10.240.5.3:80"); n != 0 {
		t.Errorf("%d of them reached the instance", n)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l := newLab(t, gateway.Limits{Conns: 4, ConnsPerSource: 2}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, echo)
	two, three := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	var open []net.Conn
	for _, from := range []netip.Addr{two, two, three} {
		c := l.raw(22, from)
		tell(t, c, "in")
		open = append(open, c)
	}
	l.wantReset("a third from one source", 22, "127.0.0.2", nil)
	c := l.raw(22, three)
	tell(t, c, "the fourth")
	waiting := l.raw(22, netip.MustParseAddr("127.0.0.4"))
	_, _ = io.WriteString(waiting, "later\n")
	_ = open[0].Close()
	if got, err := bufio.NewReader(waiting).ReadString('\n'); err != nil || got != "later\n" {
		t.Errorf("the one that waited for a place got %q, %v", got, err)
	}
}
