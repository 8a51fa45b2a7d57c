package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

func TestStreamPassesAtOnce(t *testing.T) {
	t.Run("events", func(t *testing.T) { testStream(t, "Content-Type", "text/event-stream") })
	t.Run("length known", func(t *testing.T) { testStream(t, "Content-Length", "27") })
}

func testStream(t *testing.T, name, value string) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	next := make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(name, value)
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	}))
	res, err := client().Get("http://" + l.at(80))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for i := range 3 { // the next event is sent only when this one has come
		if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) {
			t.Fatalf("event %d: %q, %v", i, lines.Text(), lines.Err())
		}
		lines.Scan()
		next <- struct{}{}
	}
	if lines.Scan() {
		t.Errorf("more came: %q", lines.Text())
	}
}

func TestAnswerWhileTheBodyStillComes(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		fmt.Fprintln(w, "go on")
		_ = rc.Flush()
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n, err)
	}))
	body, feed := io.Pipe()
	defer feed.Close()
	tr := &http.Transport{} // a server does otherwise on connections that end with the answer
	defer tr.CloseIdleConnections()
	keep := &http.Client{Transport: tr, Timeout: patience}
	res, err := keep.Post("http://"+l.at(80), "application/octet-stream", body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer := bufio.NewScanner(res.Body)
	if !answer.Scan() || answer.Text() != "go on" {
		t.Fatalf("before the body: %q, %v", answer.Text(), answer.Err())
	}
	if _, err := feed.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	_ = feed.Close()
	if !answer.Scan() || answer.Text() != "1048576 <nil>" {
		t.Errorf("after the body: %q, %v", answer.Text(), answer.Err())
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne), webRoute("json", 80, "/j", byKey("json:/id")))
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}))
	sent := make([]byte, 5<<20)
	_, _ = rand.Read(sent)
	doc := append([]byte(`{"id":"a","x":"`), bytes.Repeat([]byte("y"), 900<<10)...)
	doc = append(doc, `"}`...)
	for path, body := range map[string][]byte{"/": sent, "/j": doc} {
		for _, chunked := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = io.MultiReader(r)
			}
			res, err := client().Post("http://"+l.at(80)+path, "application/octet-stream", r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("POST %s chunked %v: got %d bytes, %v; want %d", path, chunked, len(got), err, len(body))
			}
		}
	}
}

// echoSocket serves WebSockets that send back what they get, until the end.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, msg, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if c.Write(r.Context(), kind, msg) != nil {
			return
		}
	}
}

// socket opens a WebSocket through the router.
func (l *lab) socket(ctx context.Context) *websocket.Conn {
	l.t.Helper()
	c, _, err := websocket.Dial(ctx, "ws://"+l.at(80)+"/ws", nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// say sends a message and waits for its echo.
func say(ctx context.Context, t *testing.T, c *websocket.Conn, msg string) {
	t.Helper()
	if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != msg {
		t.Fatalf("said %q, got %q, %v", msg, got, err)
	}
}

func TestParkedSocketWakesItsInstance(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Quiet: 20 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(echoSocket))
	c := l.socket(ctx)
	defer c.CloseNow()
	say(ctx, t, c, "hello")
	if n := l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}); n != 1 {
		t.Errorf("Fence of a socket in use = %d, want 1", n)
	}
	say(ctx, t, c, "a fence that came to nothing")
	eventually(t, "the socket is quiet", func() bool { return l.router.Active() == 0 })
	if n := l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}); n != 0 {
		t.Errorf("Fence of a quiet socket = %d, want 0", n)
	}
	before := len(l.host.asked())
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	if err := c.Write(ctx, websocket.MessageText, []byte("wake up")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host is asked", func() bool { return len(l.host.asked()) == before+1 })
	if got, want := l.host.asked()[before], (guestproto.Acquire{TenantID: "acme", PoolID: "workers", IP: ip3, InstanceID: id3}); got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
	close(gate)
	if _, got, err := c.Read(ctx); err != nil || string(got) != "wake up" {
		t.Fatalf("after the wake: %q, %v", got, err)
	}
	say(ctx, t, c, "again")
	if n := len(l.host.asked()); n != before+1 {
		t.Errorf("asked %d more times, want once", n-before)
	}
}

func TestParkedSocketOfAnotherInstanceEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(echoSocket))
	c := l.socket(ctx)
	defer c.CloseNow()
	say(ctx, t, c, "hello")
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	l.host.script(says(guestproto.Awake{InstanceID: id4, IP: ip3})) // the address is a neighbour's now
	_ = c.Write(ctx, websocket.MessageText, []byte("private"))
	if _, got, err := c.Read(ctx); err == nil {
		t.Errorf("got %q from another instance", got)
	}
}

func TestManyParkedSocketsWakeTogether(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(echoSocket))
	socks := make([]*websocket.Conn, 10)
	for i := range socks {
		socks[i] = l.socket(ctx)
		defer socks[i].CloseNow()
		say(ctx, t, socks[i], "hello")
	}
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	before := len(l.host.asked())
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	for i, c := range socks {
		if err := c.Write(ctx, websocket.MessageText, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all of them are held", func() bool { return l.router.Active() >= len(socks) })
	close(gate)
	for i, c := range socks {
		if _, got, err := c.Read(ctx); err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("socket %d: %q, %v", i, got, err)
		}
	}
	if n := len(l.host.asked()) - before; n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestInstanceThatVanishedIsAskedForAgain(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	s := l.instance(ip3, named("three"))
	l.want(80, "/", 200, "three")
	s.Close()
	l.place("10.240.5.3:80", "")
	l.instance(ip4, named("four"))
	l.host.script(says(awake4))
	code, _, got := l.do("POST", 80, "/", "payload") // not idempotent: nothing was sent yet
	if code != 200 || got != "four / payload" {
		t.Errorf("got %d %q, want the other instance's answer", code, got)
	}
	if n := len(l.host.asked()); n != 2 {
		t.Errorf("the host was asked %d times, want twice", n)
	}
}

func TestActivityIsReported(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Report: 5 * time.Millisecond, Quiet: 50 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(echoSocket))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := l.socket(ctx)
	say(ctx, t, c, "hello")
	last := func() guestproto.Activity {
		r := l.host.reported()
		if len(r) == 0 {
			return guestproto.Activity{Connections: -1}
		}
		return r[len(r)-1]
	}
	eventually(t, "the socket is reported", func() bool { return last().Connections == 1 && last().Open == 1 })
	eventually(t, "the quiet socket is reported as open", func() bool { return last().Connections == 0 && last().Open == 1 })
	if open, at := l.router.Use(id3); open != 1 || time.Since(at) > patience || time.Since(at) < 0 {
		t.Errorf("in use by %d, last at %s; want the quiet socket", open, at)
	}
	if a := last(); a.InstanceID != id3 || time.Since(a.LastActive) > patience || time.Since(a.LastActive) < 0 {
		t.Errorf("reported %+v", a)
	}
	n := len(l.host.reported())
	say(ctx, t, c, "hello")
	eventually(t, "new bytes are reported", func() bool { return len(l.host.reported()) > n })
	_ = c.CloseNow()
	eventually(t, "its end is reported", func() bool { return last().Open == 0 })
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	eventually(t, "nothing is remembered", func() bool { a, b := l.router.Known(); return a == 0 && b == 0 })
}
