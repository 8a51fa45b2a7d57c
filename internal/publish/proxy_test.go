package publish_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guestproto"
	"mvm/internal/publish"
)

// from connects from one of loopback's addresses.
func from(t *testing.T, source string, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(source)}, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func header(source string) string {
	return string(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort(source), netip.MustParseAddrPort("192.0.2.1:443")))
}

// TestProxyHeaderOfABalancer: the header of a source that is named counts, and whom it
// names the gateway is told. Anybody else's is bytes, under its own address.
func TestProxyHeaderOfABalancer(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{Header: 200 * time.Millisecond})
	b := binding(g, 8080)
	b.Publish.ProxyFrom = "127.0.0.2/32,127.0.0.16/28"
	at := apply(t, p, b)[0]
	for _, c := range []struct{ source, sends, told, gets string }{
		{"127.0.0.2", header("198.51.100.7:999") + "hello", "198.51.100.7:999", "hello"},
		{"127.0.0.17", header("[2001:db8::7]:999") + "hello", "[2001:db8::7]:999", "hello"},
		{"127.0.0.2", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00check", "127.0.0.2", "check"}, // its own
		{"127.0.0.2", header("127.0.0.1:999") + "own", "127.0.0.2", "own"},
		{"127.0.0.2", header("[::1]:999") + "own", "127.0.0.2", "own"},
		{"127.0.0.3", header("198.51.100.7:999"), "127.0.0.3", header("198.51.100.7:999")},
		{"127.0.0.3", "hello", "127.0.0.3", "hello"},
	} {
		conn := from(t, c.source, at)
		if _, err := io.WriteString(conn, c.sends); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.gets))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.gets {
			t.Errorf("from %s: the gateway got %q, %v; want %q", c.source, got, err, c.gets)
		}
		if told := <-g.peers; told.String() != c.told && told.Addr().String() != c.told {
			t.Errorf("from %s: the gateway was told %s, want %s", c.source, told, c.told)
		}
	}
	for what, sends := range map[string]string{"no header": "GET / HTTP/1.1\r\n\r\n", "half a header": header("198.51.100.7:999")[:20], "nothing": ""} {
		conn := from(t, "127.0.0.2", at)
		_, _ = io.WriteString(conn, sends)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s of a source whose header counts: %v, want a reset", what, err)
		}
	}
	if len(g.peers) != 0 {
		t.Error("one of these reached the gateway")
	}
}
