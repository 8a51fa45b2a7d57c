package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/testenv"
)

// TestPipelinedRequests: they are answered in the order in which they came, whatever
// bodies they have.
func TestPipelinedRequests(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	c := l.raw(80, netip.Addr{})
	fmt.Fprint(c, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"+
		"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntwo"+
		"HEAD /3 HTTP/1.1\r\nHost: x\r\n\r\n"+
		"POST /4 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n\r\n"+
		"GET /../5 HTTP/1.1\r\nHost: x\r\n\r\n"+
		"GET /6 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"+
		"GET /7 HTTP/1.1\r\nHost: x\r\n\r\n")
	in := bufio.NewReader(c)
	for _, want := range []struct{ method, body string }{
		{"GET", "three /1 "}, {"POST", "three /2 two"}, {"HEAD", ""}, {"POST", "three /4 four"}, {"GET", "the request is refused for its path"}, {"GET", "three /6 "},
	} {
		res, err := http.ReadResponse(in, &http.Request{Method: want.method})
		if err != nil {
			t.Fatalf("want %q: %v", want.body, err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(string(body), want.body) {
			t.Errorf("got %q, %v, want %q", body, err, want.body)
		}
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("after the last: %q, %v; want the end", rest, err)
	}
}

// TestConnectionsAreKept: or not, as the client and the answer have it.
func TestConnectionsAreKept(t *testing.T) {
	for _, c := range []struct {
		name, head, answer string
		kept               bool
		want               []string
	}{
		{"a client of HTTP/1.1", "GET / HTTP/1.1\r\nHost: x", length("hello"), true, []string{"HTTP/1.1 200 OK\r\n", "!Connection"}},
		{"one that ends it", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close", length("hello"), false, []string{"Connection: close\r\n"}},
		{"a client of HTTP/1.0", "GET / HTTP/1.0", length("hello"), false, []string{"HTTP/1.0 200 OK\r\n", "Connection: close\r\n"}},
		{"one that keeps it", "GET / HTTP/1.0\r\nConnection: keep-alive", length("hello"), true, []string{"Connection: keep-alive\r\n"}},
		{"one whose answer has no length", "GET / HTTP/1.0\r\nConnection: keep-alive", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("6000\r\n"+strings.Repeat("x", 0x6000)+"\r\n", 4) + "0\r\n\r\n", false,
			[]string{"Connection: close\r\n", "!chunked", "\r\n\r\nxxx"}},
		{"a 204", "GET / HTTP/1.1\r\nHost: x", "HTTP/1.1 204 No Content\r\n\r\n", true, []string{"!Content-Length", "!chunked"}},
		{"a refusal", "GET /./ HTTP/1.1\r\nHost: x", "", true, []string{"HTTP/1.1 400"}},
		{"a refusal of HEAD", "HEAD /./ HTTP/1.1\r\nHost: x", "", true, []string{"HTTP/1.1 400", "!the request"}},
		{"a status of its own", "GET / HTTP/1.1\r\nHost: x", "HTTP/1.1 799 Odd\r\nContent-Length: 2\r\nX: \ta\t\r\nDate: d\r\n\r\nhi", true, []string{"HTTP/1.1 799 ", "X: a\r\n", "\r\n\r\nhi", "Date: d\r\n"}},
		{"an unknown expectation", "GET / HTTP/1.1\r\nHost: x\r\nExpect: wonders", "", true, []string{"HTTP/1.1 417"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
			l.spoken(func(conn net.Conn, _ *bufio.Reader, _ string) { _, _ = io.WriteString(conn, c.answer) })
			conn := l.raw(80, netip.Addr{})
			fmt.Fprint(conn, c.head+"\r\n\r\n")
			var got string
			if c.kept {
				got = answeredWith(t, conn, strings.HasPrefix(c.head, "HEAD"))
				fmt.Fprint(conn, "GET /./ HTTP/1.1\r\nHost: x\r\n\r\n")
				if second := answeredWith(t, conn, false); !strings.HasPrefix(second, "HTTP/1.1 400") {
					t.Errorf("the second answer is %q", second)
				}
			} else {
				all, err := io.ReadAll(conn)
				if err != nil {
					t.Error(err)
				}
				got = string(all)
			}
			for _, want := range c.want {
				if text, not := strings.CutPrefix(want, "!"); strings.Contains(got, text) == not {
					t.Errorf("the answer is %.300q, want %q", got, want)
				}
			}
		})
	}
}

// answeredWith reads an answer that has a length, or none.
func answeredWith(t *testing.T, c net.Conn, head bool) string {
	t.Helper()
	got, size := "", 0
	for b := make([]byte, 1); !strings.HasSuffix(got, "\r\n\r\n"); got += string(b) {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
	}
	if _, after, has := strings.Cut(got, "Content-Length: "); has && !head {
		_, _ = fmt.Sscan(after, &size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatalf("after %q: %v", got, err)
	}
	return got + string(body)
}

// TestClientThatGoesAwayEndsItsRequest: before the answer and amid it.
func TestClientThatGoesAwayEndsItsRequest(t *testing.T) {
	for _, request := range []string{"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo|dy", "POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"} {
		l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
		came, ended := make(chan struct{}), make(chan struct{})
		l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(came)
			hang(w, r)
			close(ended)
		}))
		c := l.raw(80, netip.Addr{})
		first, second, _ := strings.Cut(request, "|")
		fmt.Fprint(c, first)
		if second != "" {
			eventually(t, "it is under way", func() bool { return l.router.Active() == 1 })
			time.Sleep(100 * time.Millisecond) // while it does, its end could not be seen
			fmt.Fprint(c, second)
		}
		<-came
		_ = c.Close()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Errorf("%.30q: the instance goes on", request)
			_ = l.router.Close()
		}
		eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
	}
}

// TestIdleConnectionEnds: one on which nothing more is asked.
func TestIdleConnectionEnds(t *testing.T) {
	l := newLab(t, gateway.Limits{ClientIdle: 50 * time.Millisecond}, webRoute("web", 80, "/", anyOne))
	release := make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	}))
	c := l.raw(80, netip.Addr{})
	in := bufio.NewReader(c)
	for _, path := range []string{"/", "/slow"} { // no time runs while the instance works
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		if path == "/slow" {
			eventually(t, "it is under way", func() bool { return l.router.Active() == 1 })
			time.AfterFunc(200*time.Millisecond, func() { close(release) })
		}
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", path, res, err)
		}
	}
	if b, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the idle time: %q, %v; want the end", b, err)
	}
}

// TestRestOfABodyAfterTheAnswer: the connection is used again where the rest is small, and
// what comes of a large one is nobody's next request.
func TestRestOfABodyAfterTheAnswer(t *testing.T) {
	for _, c := range []struct {
		size int
		kept bool
	}{{100 << 10, true}, {600 << 10, false}} {
		l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
		l.spoken(func(conn net.Conn, _ *bufio.Reader, head string) {
			_, _ = io.WriteString(conn, length("early"))
			if strings.HasPrefix(head, "POST") {
				_ = conn.Close()
			}
		})
		conn := l.raw(80, netip.Addr{})
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", c.size)
		if got := answeredWith(t, conn, false); !strings.HasSuffix(got, "early") {
			t.Fatalf("got %q", got)
		}
		_, _ = io.WriteString(conn, strings.Repeat("GET /evil HTTP/1.1\r\nHost: x\r\n\r\n#", c.size/32)+strings.Repeat("#", c.size%32)+
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		all, _ := io.ReadAll(conn)
		if n := strings.Count(string(all), "early"); n > 1 || (n == 1) != c.kept {
			t.Errorf("a body of %d bytes: then came %d answers, want one: %v", c.size, n, c.kept)
		}
	}
}

// TestMalformedBodyIsTheClientsFault: the instance does not get the rest of it.
func TestMalformedBodyIsTheClientsFault(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	c := l.raw(80, netip.Addr{})
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = c.(*net.TCPConn).CloseWrite()
	all, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 400") || strings.Count(string(all), "HTTP/1.1") != 1 {
		t.Errorf("got %q, %v; want one 400", all, err)
	}
}

// TestSilentClientsHoldUpNobody: connections on which nothing comes, and requests that
// take long, are no reason not to take others.
func TestSilentClientsHoldUpNobody(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	let := make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-let
		}
	}))
	defer close(let)
	for n := range 200 {
		c := l.raw(80, netip.Addr{})
		if n%2 == 0 {
			fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	l.want(80, "/", 200, "")
}

// TestHTTP2IsRefusedWithAWord: to a client that speaks it without having asked.
func TestHTTP2IsRefusedWithAWord(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	only2 := new(http.Protocols)
	only2.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: only2}
	defer tr.CloseIdleConnections()
	// A client that learns it before it has begun its request only says that it got nowhere.
	testenv.Eventually(t, patience, func() error {
		res, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://" + l.at(80))
		if err == nil {
			_ = res.Body.Close()
			t.Fatalf("a client of HTTP/2 got %s", res.Status)
		}
		if !strings.Contains(err.Error(), "HTTP_1_1_REQUIRED") {
			return err
		}
		return nil
	})
	c := l.raw(80, netip.Addr{})
	fmt.Fprint(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	_ = c.(*net.TCPConn).CloseWrite()
	if all, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(all), "HTTP/2 is not served here: use HTTP/1.1") {
		t.Errorf("got %q, %v", all, err)
	}
}
