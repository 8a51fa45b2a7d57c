package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// gone3 says that all boots of instance three up to the given one are lost.
func gone3(boot int) guestproto.Fence {
	return guestproto.Fence{InstanceID: id3, IP: ip3, Boot: boot, Gone: true}
}

// boot3 is an answer that names a boot of instance three.
func boot3(boot int) guestproto.Awake {
	return guestproto.Awake{InstanceID: id3, IP: ip3, Boot: boot}
}

// TestBrokenExchangeIsRepeatedOnceWhereSafe: the worker breaks off every exchange, and
// counts them.
func TestBrokenExchangeIsRepeatedOnceWhereSafe(t *testing.T) {
	for _, c := range []struct {
		name, method, body, header string
		warm                       int // pooled connections that there are
		want                       int32
	}{
		{"GET on a new connection", "GET", "", "", 0, 1},
		{"GET on a pooled one", "GET", "", "", 1, 2},
		{"GET on one of several pooled ones", "GET", "", "", 4, 2},
		{"HEAD on a pooled one", "HEAD", "", "", 1, 2},
		{"GET with a body", "GET", "body", "", 1, 1},
		{"POST", "POST", "body", "", 1, 1},
		{"POST with a key", "POST", "", "Idempotency-Key", 4, 1},
		{"POST with a key and a body", "POST", "body", "X-Idempotency-Key", 4, 1},
		{"DELETE", "DELETE", "", "", 1, 1},
	} {
		l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
		var times atomic.Int32
		ready := make(chan struct{}, c.warm)
		let := make(chan struct{})
		l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			if r.URL.Path == "/warm" {
				ready <- struct{}{}
				<-let
				return
			}
			times.Add(1)
			panic(http.ErrAbortHandler)
		}))
		done := make(chan struct{})
		for range c.warm {
			go func() { l.want(80, "/warm", 200, ""); done <- struct{}{} }()
		}
		for range c.warm {
			<-ready
		}
		close(let)
		for range c.warm {
			<-done
		}
		eventually(t, "connections are pooled", func() bool { return l.router.Active() == 0 })
		code, h, _ := l.do(c.method, 80, "/", c.body, append([]string{}, strings.Fields(strings.Repeat(c.header+" k ", min(1, len(c.header))))...)...)
		if code != 502 || h.Get("Retry-After") != "" || times.Load() != c.want {
			t.Errorf("%s: %d, came %d times; want 502 and %d", c.name, code, times.Load(), c.want)
		}
	}
}

// hang is an instance's HTTP server that begins to answer, or not, and never ends.
func hang(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ws":
		echoSocket(w, r)
		return
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
	}
	<-r.Context().Done()
}

// TestConnectionsToAnInstanceThatIsGoneEnd: the instance does not end its connections,
// as none does whose VMM was killed.
func TestConnectionsToAnInstanceThatIsGoneEnd(t *testing.T) {
	for name, tell := range map[string]func(l *lab){
		"by the host's word": func(l *lab) {
			if n := l.router.Fence(gone3(1)); n != 0 {
				t.Errorf("Fence = %d, want 0: nothing is under way any more", n)
			}
		},
		"by another boot in an answer": func(l *lab) {
			l.host.script(says(boot3(2)))
			l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}) // it is not known to be awake
			l.want(80, "/again", 200, "")
		},
	} {
		t.Run(name, func(t *testing.T) { testGone(t, tell) })
	}
}

func testGone(t *testing.T, lose func(l *lab)) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne), tcpRoute("ssh", 22, "", anyOne))
	l.host.script(says(boot3(1)))
	var arrived atomic.Int32
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/again" {
			arrived.Add(1)
			hang(w, r)
		}
	}))
	l.tcp(ip3, echo)
	results := make(chan string, 16)
	expect := func(what string, ends func() error) {
		go func() {
			began := time.Now()
			err := ends()
			if err == nil || isTimeout(err) || time.Since(began) > patience/2 {
				results <- fmt.Sprintf("%s: got %v, want an error at once", what, err)
				return
			}
			results <- ""
		}()
	}
	pending := 0
	start := func(what string, ends func() error) { pending++; expect(what, ends) }

	start("a request", func() error {
		code, _, got := l.do("GET", 80, "/slow", "")
		if code != 502 || !strings.Contains(got, "the instance ended before it answered") {
			return nil
		}
		return errors.New("502")
	})
	events := l.raw(80, netip.Addr{})
	fmt.Fprint(events, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(events), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = res.Body.Read(make([]byte, 64))
	start("a stream of events", func() error { _, err := io.ReadAll(res.Body); return err })

	old := l.raw(80, netip.Addr{})
	fmt.Fprint(old, "GET /events HTTP/1.0\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(old, make([]byte, 15)); err != nil {
		t.Fatal(err)
	}
	start("a stream to an HTTP/1.0 client", func() error { _, err := io.ReadAll(old); return err })

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws := l.socket(ctx)
	defer ws.CloseNow()
	say(ctx, t, ws, "hello")
	start("a WebSocket", func() error { _, _, err := ws.Read(ctx); return err })

	tcp := l.raw(22, netip.Addr{})
	tell(t, tcp, "hello")
	start("a TCP connection", func() error {
		_, err := tcp.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		return err
	})
	eventually(t, "all is under way", func() bool { open, _ := l.router.Use(id3); return open == 5 && arrived.Load() == 4 })
	if p := l.router.Peers().Instances; len(p) != 1 || p[0] != (guestproto.Peer{InstanceID: id3, Boot: 1}) {
		t.Errorf("peers %+v, want the first boot of three", p)
	}
	lose(l)
	for range pending {
		if r := <-results; r != "" {
			t.Error(r)
		}
	}
	eventually(t, "nothing counts as use of it", func() bool { open, _ := l.router.Use(id3); return open == 0 && l.router.Active() == 0 })
}

// TestWordOnAnEarlierBootSparesTheLater: the host's word that a boot is gone may come
// after its next boot has taken requests.
func TestWordOnAnEarlierBootSparesTheLater(t *testing.T) {
	l := newLab(t, gateway.Limits{}, tcpRoute("ssh", 22, "", anyOne))
	l.host.script(says(boot3(2)))
	l.tcp(ip3, echo)
	c := l.raw(22, netip.Addr{})
	tell(t, c, "hello")
	l.router.Fence(gone3(1))
	tell(t, c, "still here")
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}) // it sleeps
	tell(t, c, "and after its sleep")
	l.router.Fence(gone3(2))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after its end: %v, want a reset", err)
	}
}

// TestGoneBeforeConnectedAsksAgain: what was not sent yet is for the next boot.
func TestGoneBeforeConnectedAsksAgain(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.host.script(says(boot3(1)))
	l.instance(ip3, named("three"))
	l.lose("10.240.5.3:80", 1000)
	got := make(chan string)
	go func() {
		_, _, body := l.do("POST", 80, "/", "once")
		got <- body
	}()
	eventually(t, "it connects", func() bool { return l.dials("10.240.5.3:80") > 0 })
	l.host.script(says(boot3(2)))
	l.lose("10.240.5.3:80", 0)
	l.router.Fence(gone3(1))
	if body := <-got; body != "three / once" {
		t.Errorf("got %q, want the next boot's answer", body)
	}
}

// TestHalfCloseWakes: the end of a client's input is something that it sent.
func TestHalfCloseWakes(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Quiet: time.Millisecond}}, tcpRoute("ssh", 22, "", anyOne))
	l.tcp(ip3, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "%d bytes", n)
		_ = c.CloseWrite()
	})
	for _, sent := range []string{"", "hello"} {
		c := l.raw(22, netip.Addr{}).(*net.TCPConn)
		_, _ = io.WriteString(c, sent)
		eventually(t, "it is quiet and connected", func() bool { open, _ := l.router.Use(id3); return open == 1 && l.router.Active() == 0 })
		l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
		before := len(l.host.asked())
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != fmt.Sprintf("%d bytes", len(sent)) {
			t.Errorf("after %q and its end: %q, %v", sent, got, err)
		}
		if n := len(l.host.asked()) - before; n != 1 {
			t.Errorf("after %q: the host was asked %d times for the end of the input, want once", sent, n)
		}
		_ = c.Close()
		eventually(t, "it has ended", func() bool { open, _ := l.router.Use(id3); return open == 0 })
	}
}
