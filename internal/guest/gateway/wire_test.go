package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
)

// spoken is an instance at ip3 that says what it is told, after each head that it reads.
func (l *lab) spoken(say func(c net.Conn, in *bufio.Reader, head string)) *arrivals {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	a := &arrivals{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			a.conns.Add(1)
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				in := bufio.NewReader(c)
				for {
					head := ""
					for !strings.HasSuffix(head, "\r\n\r\n") {
						line, err := in.ReadString('\n')
						if err != nil {
							return
						}
						head += line
					}
					a.requests.Add(1)
					say(c, in, head)
				}
			})
		}
	})
	l.t.Cleanup(func() { _ = ln.Close(); l.router.Close(); wg.Wait() })
	l.place(at3, ln.Addr().String())
	return a
}

// length is an answer of a length that is told.
func length(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestAnswersPassAsTheyAre: whatever form the instance gives its answer, and whether the
// connection can be used again.
func TestAnswersPassAsTheyAre(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		close                bool // the instance closes after it
		want                 []string
		conns                int32 // for two requests
	}{
		{"a length", "GET", length("hello"), false, []string{"HTTP/1.1 200 OK\r\n", "Content-Length: 5\r\n", "\r\n\r\nhello"}, 1},
		{"a large body", "GET", length(strings.Repeat("x", 100<<10)), false, []string{"Content-Length: 102400\r\n", "\r\n\r\nxxx"}, 1},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", false, []string{"\r\n\r\nhello"}, 1},
		{"a trailer", "GET", "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n", false, []string{"Trailer: X-Sum\r\n", "\r\n0\r\nX-Sum: 7\r\n\r\n"}, 1},
		{"until the end", "GET", "HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nhello", true, []string{"X-A: b\r\n", "hello"}, 2},
		{"a last answer", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", false, []string{"\r\n\r\nhi"}, 2},
		{"of one connection", "GET", "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: a\r\nContent-Length: 2\r\n\r\nhi", false, []string{"\r\n\r\nhi", "!X-Hop"}, 1},
		{"no body", "GET", "HTTP/1.1 204 No Content\r\nKeep-Alive: timeout=5\r\n\r\n", false, []string{"HTTP/1.1 204 No Content\r\n", "!Keep-Alive"}, 1},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n", false, []string{"HTTP/1.1 304", "Etag: \"a\"\r\n"}, 1},
		{"a head alone", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, []string{"Content-Length: 5\r\n"}, 1},
		{"hints first", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + length("hello"), false, []string{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n", "\r\n\r\nhello"}, 1},
		{"more than one answer", "GET", length("hello") + length("evil"), false, []string{"\r\n\r\nhello", "!evil"}, 2},
		{"an endless head", "GET", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1000), true, []string{"HTTP/1.1 502"}, 2},
		{"another protocol unasked", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", false, []string{"HTTP/1.1 502"}, 2},
		{"no HTTP", "GET", "SSH-2.0-OpenSSH_9.2\r\n\r\n", true, []string{"HTTP/1.1 502"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, gateway.Limits{Roster: roster.Limits{Reconnect: patience}}, webRoute("web", 80, "/", anyOne))
			a := l.spoken(func(conn net.Conn, _ *bufio.Reader, _ string) {
				_, _ = io.WriteString(conn, c.answer)
				if c.close {
					_ = conn.Close()
				}
			})
			for range 2 {
				conn := l.raw(80, netip.Addr{})
				fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", c.method)
				all, err := io.ReadAll(conn)
				if err != nil {
					t.Error(err)
				}
				for _, want := range c.want {
					if text, not := strings.CutPrefix(want, "!"); strings.Contains(string(all), text) == not {
						t.Errorf("the answer is %.300q, want %q", all, want)
					}
				}
				eventually(t, "it is done", func() bool { return l.router.Active() == 0 })
			}
			if n := a.conns.Load(); n != c.conns {
				t.Errorf("two requests took %d connections, want %d", n, c.conns)
			}
		})
	}
}

// TestOldClientGetsOneAnswer: it knows no answers before the answer.
func TestOldClientGetsOneAnswer(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+length("hello"))
	})
	conn := l.raw(80, netip.Addr{})
	fmt.Fprint(conn, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
	if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "HTTP/1.0 200 OK\r\n") || !strings.HasSuffix(string(all), "\r\n\r\nhello") {
		t.Errorf("an HTTP/1.0 client got %q, %v", all, err)
	}
}

// TestUpgradeBeforeTheEndOfTheBody: the body and what follows the upgrade can't share the
// connection, and the gateway goes on for the others.
func TestUpgradeBeforeTheEndOfTheBody(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	})
	conn := l.raw(80, netip.Addr{})
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusBadGateway {
		t.Errorf("an upgrade while the body came was answered with %d, want 502", res.StatusCode)
	}
	eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
}

// TestPooledConnectionThatEndedIsNotUsed: also what may not be repeated comes through.
func TestPooledConnectionThatEndedIsNotUsed(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	ended := make(chan struct{}, 1)
	a := l.spoken(func(c net.Conn, in *bufio.Reader, _ string) {
		_, _ = io.CopyN(io.Discard, in, 4)
		_, _ = io.WriteString(c, length("hello"))
		_ = c.Close() // without a word before
		ended <- struct{}{}
	})
	for range 20 {
		if code, _, got := l.do("POST", 80, "/", "body"); code != 200 || got != "hello" {
			t.Fatalf("got %d %q", code, got)
		}
		<-ended
	}
	if n := a.requests.Load(); n != 20 {
		t.Errorf("%d requests arrived, want 20", n)
	}
}

// TestRequestsPassAsTheyAre: the head and body that the instance gets.
func TestRequestsPassAsTheyAre(t *testing.T) {
	for _, c := range []struct {
		name, head, body string
		want             []string
	}{
		{"no body", "GET /a%2fb?x=%zz HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2", "", []string{"GET /a%2fb?x=%zz HTTP/1.1\r\n", "Host: h\r\n", "X-A: 1\r\nX-A: 2\r\n", "!Content-Length", "!User-Agent"}},
		{"an empty body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0", "", []string{"Content-Length: 0\r\n"}},
		{"a body", "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5", "hello", []string{"Content-Length: 5\r\n", "\r\n\r\nhello", "!chunked"}},
		{"a whole URL", "GET http://other/p HTTP/1.1\r\nHost: h", "", []string{"GET /p HTTP/1.1\r\n", "Host: other\r\n"}},
		{"an old client", "GET / HTTP/1.0", "", []string{"GET / HTTP/1.1\r\n", "Host: 10.240.5.3:80\r\n"}},
		{"chunks", "POST / HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", []string{"Transfer-Encoding: chunked\r\n", "Trailer: X-Sum\r\n", "\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"}},
		{"a trailer that lies", "POST / HTTP/1.1\r\nHost: h\r\nTrailer: X-Forwarded-For, X_Mvm_User\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\nX_Mvm_User: ann\r\nConnection: close\r\n\r\n",
			[]string{"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "!Trailer", "!X_Mvm_User", "!10.0.0.1", "!Connection"}},
		{"of one connection", "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nProxy-Authorization: s\r\nTe: gzip, trailers", "", []string{"!X-Hop", "!Proxy-Authorization", "Te: trailers\r\n", "!Connection"}},
		{"names that pass for others", "GET / HTTP/1.1\r\nHost: h\r\nX_Forwarded_For: 10.0.0.1\r\nx-real_ip: 10.0.0.1\r\nProxy_Authorization: s\r\nMy_Own: 1", "", []string{"My_own: 1\r\n", "!10.0.0.1", "!Proxy"}},
		{"an upgrade", "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket", "", []string{"Connection: Upgrade\r\nUpgrade: websocket\r\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
			got := make(chan string, 1)
			l.spoken(func(conn net.Conn, in *bufio.Reader, head string) {
				body := ""
				for end := c.body; end != "" && !strings.HasSuffix(body, end[max(0, len(end)-4):]); {
					b, err := in.ReadByte()
					if err != nil {
						break
					}
					body += string(b)
				}
				got <- head + body
				_, _ = io.WriteString(conn, length("hello"))
			})
			conn := l.raw(80, netip.Addr{})
			_, _ = io.WriteString(conn, c.head+"\r\n\r\n"+c.body)
			if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != 200 {
				t.Fatalf("got %v, %v", res, err)
			}
			sent := <-got
			for _, want := range c.want {
				if text, not := strings.CutPrefix(want, "!"); strings.Contains(sent, text) == not {
					t.Errorf("the instance got %q, want %q", sent, want)
				}
			}
		})
	}
}

// TestBodyThatWaitsForTheInstancesWord: it is sent after a 100, and not after a refusal.
func TestBodyThatWaitsForTheInstancesWord(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, in *bufio.Reader, head string) {
		if strings.Contains(head, "/no") {
			_, _ = io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		body := make([]byte, 5)
		_, _ = io.ReadFull(in, body)
		_, _ = io.WriteString(c, length(string(body)))
	})
	for _, path := range []string{"/yes", "/no", "/yes"} {
		c := l.raw(80, netip.Addr{})
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", path)
		in := bufio.NewReader(c)
		status, err := in.ReadString('\n')
		if path == "/no" {
			if !strings.HasPrefix(status, "HTTP/1.1 417") {
				t.Errorf("%s: got %q, %v", path, status, err)
			}
			continue
		}
		if !strings.HasPrefix(status, "HTTP/1.1 100") {
			t.Fatalf("%s: got %q, %v", path, status, err)
		}
		_, _ = io.WriteString(c, "hello")
		_, _ = in.ReadString('\n')
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: got %v, %v", path, res, err)
		}
		if body, _ := io.ReadAll(res.Body); string(body) != "hello" {
			t.Errorf("%s: got %q", path, body)
		}
	}
}

// TestPoolIsBounded: of many connections that were needed at once some stay, for a while.
func TestPoolIsBounded(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Idle: 4 * time.Second}}, webRoute("web", 80, "/", anyOne))
	let, all := make(chan struct{}), make(chan struct{}, 100)
	var open sync.WaitGroup
	a := l.spoken(func(c net.Conn, _ *bufio.Reader, head string) {
		if strings.Contains(head, "/wait") {
			all <- struct{}{}
			<-let
		}
		_, _ = io.WriteString(c, length("hello"))
	})
	for range 100 {
		open.Go(func() { l.want(80, "/wait", 200, "hello") })
	}
	for range 100 {
		<-all
	}
	close(let)
	open.Wait()
	eventually(t, "32 stay", func() bool { return l.router.Links() == 32 })
	for range 50 {
		l.want(80, "/", 200, "hello")
	}
	if n := a.conns.Load(); n != 100 {
		t.Errorf("%d connections were made, want the 100 that were needed at once", n)
	}
	eventually(t, "none stays", func() bool { return l.router.Links() == 0 })
}

// TestWhichIdleConnectionsAreUsed: a close that is on its way loses a request that is not sent
// twice, so those take no connection that was idle for long.
func TestWhichIdleConnectionsAreUsed(t *testing.T) {
	for _, c := range []struct {
		method, body string
		used         bool // one that was idle for long
	}{
		{"GET", "", true}, {"HEAD", "", true}, {"OPTIONS", "", true},
		{"GET", "body", false}, {"POST", "", false}, {"POST", "body", false}, {"DELETE", "", false},
	} {
		for _, brief := range []bool{true, false} {
			lim := gateway.Limits{Roster: roster.Limits{Idle: time.Hour, IdleBrief: time.Nanosecond}}
			if brief {
				lim.Roster.IdleBrief = time.Hour
			}
			l := newLab(t, lim, webRoute("web", 80, "/", anyOne))
			a := l.spoken(func(c net.Conn, in *bufio.Reader, head string) {
				if strings.Contains(head, "Content-Length: 4") {
					_, _ = io.CopyN(io.Discard, in, 4)
				}
				_, _ = io.WriteString(c, length(""))
			})
			l.want(80, "/", 200, "")
			eventually(t, "the connection is pooled", func() bool { return l.router.Active() == 0 })
			if code, _, _ := l.do(c.method, 80, "/", c.body); code != 200 {
				t.Errorf("%s with body %q: %d", c.method, c.body, code)
			}
			if got := a.conns.Load() == 1; got != (c.used || brief) {
				t.Errorf("%s with body %q, idle for a short time %v: the connection was used: %v", c.method, c.body, brief, got)
			}
		}
	}
}

// TestNewConnectionsReplaceOldOnes: what can't use the pool's old connections puts new ones in
// their place, so that the next one like it can use those.
func TestNewConnectionsReplaceOldOnes(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Idle: time.Hour, IdleBrief: 2 * time.Second}}, webRoute("web", 80, "/", anyOne))
	let, all := make(chan struct{}), make(chan struct{}, 32)
	var open sync.WaitGroup
	a := l.spoken(func(c net.Conn, _ *bufio.Reader, head string) {
		if strings.Contains(head, "/wait") {
			all <- struct{}{}
			<-let
		}
		_, _ = io.WriteString(c, length(""))
	})
	for range 32 {
		open.Go(func() { l.want(80, "/wait", 200, "") })
	}
	for range 32 {
		<-all
	}
	close(let)
	open.Wait()
	eventually(t, "32 are idle", func() bool { return l.router.Active() == 0 && l.router.Links() == 32 })
	time.Sleep(2 * time.Second) // none of them is for a POST any more
	for began := time.Now(); ; began = time.Now() {
		before := a.conns.Load()
		for range 2 {
			if code, _, _ := l.do("POST", 80, "/", ""); code != 200 {
				t.Fatalf("POST: %d", code)
			}
		}
		if time.Since(began) > time.Second { // the machine stood still: the second one could not use it
			continue
		}
		if n := a.conns.Load() - before; n > 1 {
			t.Errorf("two requests made %d connections, want one", n)
		}
		break
	}
	eventually(t, "no more than 32 stay", func() bool { return l.router.Links() == 32 })
}
