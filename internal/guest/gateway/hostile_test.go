package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"mvm/internal/guest/gateway"
)

// TestUnaskedUpgradeWhileTheBodyComes: one at a time reads from the client.
func TestUnaskedUpgradeWhileTheBodyComes(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	})
	for range 20 {
		c := l.raw(80, netip.Addr{})
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 50 {
			if _, err := io.WriteString(c, "3\r\nabc\r\n"); err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		if all, err := io.ReadAll(c); err == nil && !strings.HasPrefix(string(all), "HTTP/1.1 502") {
			t.Errorf("got %q", all)
		}
	}
}

// TestFieldsOfAnswersThatOthersMayMisread: a name with a space is no name, and a length is
// no trailer: a proxy before the gateway could take either for the end of the answer.
func TestFieldsOfAnswersThatOthersMayMisread(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, head string) {
		if strings.HasPrefix(head, "GET /trailer") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, X-Sum\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 3\r\nX-Sum: 1\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length : 3\r\nX Y: z\r\nContent-Length: 5\r\n\r\nhello")
	})
	for _, path := range []string{"/", "/trailer"} {
		c := l.raw(80, netip.Addr{})
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n", path)
		all, err := io.ReadAll(c)
		text := strings.ToLower(string(all))
		if err != nil || strings.Contains(text, "transfer-encoding :") || strings.Contains(text, "content-length :") || strings.Contains(text, "x y") ||
			strings.Contains(text, "content-length: 3\r") {
			t.Errorf("GET %s: got %q, %v", path, all, err)
		}
	}
}
