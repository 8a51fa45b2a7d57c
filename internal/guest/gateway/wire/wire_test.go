package wire_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm/internal/guest/gateway/wire"
)

// wireSeeds are what clients may send, and what attackers have sent: each is the bytes of
// a connection, and how many requests of it are taken.
var wireSeeds = []struct {
	raw   string
	taken int
}{
	{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	{"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 2},
	{"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	{"GET / HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n", 1},
	{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n", 2},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 2},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 2},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 2},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\naccept: a\r\naccept: b\r\nX_Under: 1\r\n\r\n", 1},
	{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	{"GET http://other/p?q HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	{"CONNECT other:443 HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	{"GET /%zz?x=%zz HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\nX: \xff\xfe\r\n\r\n", 1},
	{"M-SEARCH / HTTP/1.1\r\nHost:\r\nEmpty:\r\nTab:\ta\tb\t\r\n\r\n", 1},

	// Two lengths, or none that all read alike.
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5 \r\n\r\nhello", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n", 0},

	// Lines.
	{"GET / HTTP/1.1\nHost: x\n\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: b\rTransfer-Encoding: chunked\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA\xc3\xa9: b\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\n\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nA: \rb\r\n\r\n", 0},
	{"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", 0},
	{"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 0},
	{"GET /\tHTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET / x HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET(x) / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 0},
	{"GET / http/1.1\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/11\r\nHost: x\r\n\r\n", 0},
	{"GET /\r\n\r\n", 0},
	{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},

	// Host.
	{"GET / HTTP/1.1\r\n\r\n", 0},
	{"GET http://other/ HTTP/1.1\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 0},
	{"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: x@y\r\n\r\n", 0},
	{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 1},

	// Chunks. The request is taken, and its body is not.
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA b: c\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: c\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 900)+"\r\nx\r\n", 40) + "0\r\n\r\n", 1},
	{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel", 1},
}

// TestTokens: which bytes may be in a method and in the name of a field.
func TestTokens(t *testing.T) {
	for c := range 256 {
		want := 0
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			want = 1
		}
		for _, raw := range []string{"GET / HTTP/1.1\r\nHost: x\r\na%sb: c\r\n\r\n", "G%sT / HTTP/1.1\r\nHost: x\r\n\r\n"} {
			if c == ':' && strings.Contains(raw, "c\r\n") {
				continue // the name ends there
			}
			if got := len(readByGateway([]byte(fmt.Sprintf(raw, []byte{byte(c)})))); got != want {
				t.Errorf("byte %#x: %d requests are taken, want %d", c, got, want)
			}
		}
	}
}

// FuzzWire has a connection's bytes read by the gateway and by net/http: what net/http
// refuses is refused, and what is taken is read as net/http reads it.
func FuzzWire(f *testing.F) {
	for _, s := range wireSeeds {
		f.Add([]byte(s.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 48<<10 { // a larger head is refused by either at another size
			return
		}
		ours, theirs := readByGateway(raw), readByNetHTTP(raw)
		for n, got := range ours {
			if n >= len(theirs) {
				t.Fatalf("net/http refuses request %d, and here it is taken:\n%s", n+1, got)
			}
			if strings.HasSuffix(got, brokenBody) { // more may be refused here
				got = strings.TrimSuffix(got, brokenBody)
				theirs[n] = theirs[n][:min(len(got), len(theirs[n]))]
			}
			if got != theirs[n] {
				t.Fatalf("request %d is read as\n%s\nand by net/http as\n%s", n+1, got, theirs[n])
			}
		}
	})
}

// TestWire: what is taken of each connection.
func TestWire(t *testing.T) {
	for _, s := range wireSeeds {
		if got := readByGateway([]byte(s.raw)); len(got) != s.taken {
			t.Errorf("of %.120q %d requests are taken, want %d: %.300q", s.raw, len(got), s.taken, got)
		}
	}
}

const brokenBody = "(the body breaks off)"

// told writes down what a request says.
func told(req *http.Request, body []byte, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s host %q length %d close %v\n", req.Method, req.URL.RequestURI(), req.Host, req.ContentLength, req.Close)
	h := maps.Clone(req.Header)
	if _, is := h["Pragma"]; is {
		delete(h, "Cache-Control") // of which net/http makes one
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s: %q\n", name, h[name])
	}
	fmt.Fprintf(&b, "body %q", body)
	if err != nil {
		return b.String()[:b.Len()-1] + brokenBody
	}
	for _, name := range slices.Sorted(maps.Keys(req.Trailer)) {
		fmt.Fprintf(&b, "\ntrailer %s: %q", name, req.Trailer[name])
	}
	return b.String()
}

func readByGateway(raw []byte) (seen []string) {
	wire.ReadRequests(bytes.NewReader(raw), func(req *http.Request, body []byte, err error) { seen = append(seen, told(req, body, err)) })
	return seen
}

// readByNetHTTP has a server of net/http read it.
func readByNetHTTP(raw []byte) []string {
	var mu sync.Mutex
	var seen []string
	c := &said{in: bytes.NewReader(raw), ended: make(chan struct{})}
	server := &http.Server{DisableGeneralOptionsHandler: true, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			body, err := io.ReadAll(req.Body)
			mu.Lock()
			seen = append(seen, told(req, body, err))
			mu.Unlock()
			if err != nil {
				panic(http.ErrAbortHandler)
			}
		})}
	l := &once{conn: c, done: c.ended}
	_ = server.Serve(l)
	<-c.ended
	mu.Lock()
	defer mu.Unlock()
	return seen
}

// said is a connection whose client has said all.
type said struct {
	mu    sync.Mutex
	in    *bytes.Reader
	ended chan struct{} // closed when the server ends it, or refuses
	once  sync.Once
}

func (c *said) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.Read(p)
}

// Write takes an answer. After one that is an error the server would wait.
func (c *said) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 4")) || bytes.HasPrefix(p, []byte("HTTP/1.1 5")) {
		_ = c.Close()
	}
	return len(p), nil
}

func (c *said) Close() error {
	if c.ended != nil {
		c.once.Do(func() { close(c.ended) })
	}
	return nil
}

func (c *said) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *said) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *said) SetDeadline(time.Time) error      { return nil }
func (c *said) SetReadDeadline(time.Time) error  { return nil }
func (c *said) SetWriteDeadline(time.Time) error { return nil }

// once is a listener with one connection.
type once struct {
	conn net.Conn
	done chan struct{}
}

func (l *once) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.TCPAddr{} }
