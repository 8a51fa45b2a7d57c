package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
)

const at3 = "10.240.5.3:80"

// arrivals are what came to an instance.
type arrivals struct{ conns, requests atomic.Int32 }

// counted serves hello at ip3 and counts what arrives.
func (l *lab) counted() *arrivals {
	a := &arrivals{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		if strings.HasSuffix(r.URL.Path, "/close") {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprint(w, "hello")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			a.conns.Add(1)
		}
	}
	s.Start()
	l.t.Cleanup(s.Close)
	l.place(at3, s.Listener.Addr().String())
	return a
}

// TestBurstIsNotMultiplied: as many connections as requests arrive at most, however long
// connecting takes, and the host is asked once.
func TestBurstIsNotMultiplied(t *testing.T) {
	for _, size := range []int{100, 200, 400, 800} {
		for _, awake := range []bool{true, false} {
			if !awake && size > 200 { // more than may wait for one instance
				continue
			}
			t.Run(fmt.Sprintf("%d awake %v", size, awake), func(t *testing.T) { testBurst(t, size, awake) })
		}
	}
}

func testBurst(t *testing.T, size int, awake bool) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Reconnect: patience}}, webRoute("web", 80, "/", anyOne))
	a := l.counted()
	sent := int32(size)
	if awake {
		l.want(80, "/close", 200, "hello")
		sent++
	}
	answer := l.stall(at3)
	var wg sync.WaitGroup
	for range size {
		wg.Go(func() { l.want(80, "/", 200, "hello") })
	}
	eventually(t, "all are on their way", func() bool { return l.router.Active() == size })
	time.Sleep(time.Second) // in which nothing is to happen
	answer()
	wg.Wait()
	if n := a.requests.Load(); n != sent {
		t.Errorf("%d requests arrived, want %d", n, sent)
	}
	spare := int32(0)
	if !awake {
		spare = 4 // further tries of the first connection
	}
	if n := a.conns.Load(); n > sent+spare {
		t.Errorf("%d connections arrived for %d requests", n, sent)
	}
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestTimeOutWhileOthersSucceed: a connection that does not come about is made again,
// and the host is not asked.
func TestTimeOutWhileOthersSucceed(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Reconnect: 300 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	l.counted()
	l.want(80, "/close", 200, "hello")
	l.lose(at3, 1)
	unlucky := make(chan struct{})
	go func() {
		defer close(unlucky)
		l.want(80, "/", 200, "hello")
	}()
	eventually(t, "it is connecting", func() bool { return l.dials(at3) == 2 })
	for done := false; !done; {
		l.want(80, "/close", 200, "hello")
		select {
		case <-unlucky:
			done = true
		default:
		}
	}
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestQueueForConnectionsIsBounded: who waits too long for a connection gets a 503, and
// the instance is not asked for again.
func TestQueueForConnectionsIsBounded(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Dials: 2, Hold: 300 * time.Millisecond, Reconnect: patience}}, webRoute("web", 80, "/", anyOne))
	l.counted()
	l.want(80, "/close", 200, "hello")
	answer := l.stall(at3)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			code, h, got := l.do("GET", 80, "/", "")
			if code != 503 || h.Get("Retry-After") != "5" || !strings.Contains(got, "waiting for a connection") {
				t.Errorf("past the time: %d, Retry-After %q, %q", code, h.Get("Retry-After"), got)
			}
		})
	}
	wg.Wait()
	if n := l.mostDials(); n != 2 {
		t.Errorf("%d connections were tried at once, want 2", n)
	}
	answer()
	l.want(80, "/", 200, "hello")
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestClosedPortHoldsUpNoOther: who asks for a port that is not open waits for it alone.
func TestClosedPortHoldsUpNoOther(t *testing.T) {
	closed := webRoute("metrics", 80, "/metrics", anyOne)
	closed.To.TargetPort = 9090
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Refused: patience, Connect: patience}}, webRoute("web", 80, "/", anyOne), closed)
	a := l.counted()
	waits := l.raw(80, netip.Addr{})
	fmt.Fprint(waits, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "it is connecting", func() bool { return l.dials("10.240.5.3:9090") > 1 })
	got := make(chan struct{})
	go func() {
		defer close(got)
		l.want(80, "/", 200, "hello")
	}()
	eventually(t, "the other port's request arrives", func() bool { return a.requests.Load() == 1 })
	<-got
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestClosedPortDoubtsNoOther: who asks for a port that is not open learns so, and the
// instance, which serves others, is not asked for again and keeps its connections.
func TestClosedPortDoubtsNoOther(t *testing.T) {
	closed := webRoute("metrics", 80, "/metrics", anyOne)
	closed.To.TargetPort = 9090
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Refused: 30 * time.Millisecond, Reconnect: patience}}, webRoute("web", 80, "/", anyOne), closed, tcpRoute("ssh", 22, "", anyOne))
	a := l.counted()
	l.want(80, "/", 200, "hello")
	for range 3 {
		l.want(80, "/metrics", 503, "takes no connections")
		if n, err := l.raw(22, netip.Addr{}).Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a closed TCP port: %d bytes, %v; want a reset", n, err)
		}
		l.want(80, "/", 200, "hello")
	}
	if n := len(l.host.asked()); n > 2 { // once for each protocol's target at most
		t.Errorf("the host was asked %d times, want twice at most", n)
	}
	if n := a.conns.Load(); n != 1 {
		t.Errorf("%d connections to the open port, want 1 that stays", n)
	}
}

// TestStalledPortHoldsUpNoOther: as many connections to one port as may be made at once
// leave those to another port alone.
func TestStalledPortHoldsUpNoOther(t *testing.T) {
	other := webRoute("metrics", 80, "/metrics", anyOne)
	other.To.TargetPort = 9090
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Dials: 1, Reconnect: 10 * patience}}, webRoute("web", 80, "/", anyOne), other)
	second := l.counted()
	l.mu.Lock()
	l.network["10.240.5.3:9090"] = l.network[at3]
	l.mu.Unlock()
	a := l.counted()
	l.want(80, "/metrics/close", 200, "hello")
	l.want(80, "/close", 200, "hello")
	answer := l.stall("10.240.5.3:9090")
	defer answer()
	before := l.dials("10.240.5.3:9090")
	waits := l.raw(80, netip.Addr{})
	fmt.Fprint(waits, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "it is connecting", func() bool { return l.dials("10.240.5.3:9090") > before })
	l.want(80, "/", 200, "hello")
	if second.requests.Load() != 1 || a.requests.Load() != 2 {
		t.Errorf("%d requests at one port and %d at the other, want 1 and 2", second.requests.Load(), a.requests.Load())
	}
}

// TestClientThatGivesUpWhileConnecting: the others' connections go on.
func TestClientThatGivesUpWhileConnecting(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.counted()
	l.want(80, "/close", 200, "hello")
	answer := l.stall(at3)
	c := l.raw(80, netip.Addr{})
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	eventually(t, "it is connecting", func() bool { return l.dials(at3) == 2 })
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.want(80, "/", 200, "hello")
	}()
	eventually(t, "both are", func() bool { return l.dials(at3) == 3 })
	_ = c.Close()
	eventually(t, "one is gone", func() bool { return l.router.Active() == 1 })
	answer()
	<-done
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestBurstBeginsInTurn: of a burst of connections some are served, and the others begin
// as those have their answers.
func TestBurstBeginsInTurn(t *testing.T) {
	l := newLab(t, gateway.Limits{Late: time.Hour}, webRoute("web", 80, "/", anyOne))
	var now, most atomic.Int32
	come, let := make(chan struct{}, 200), make(chan struct{}, 200)
	l.instance(ip3, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		come <- struct{}{}
		<-let
		now.Add(-1)
	}))
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { l.want(80, "/", 200, "") })
	}
	for n := range 200 {
		<-come
		if n >= 31 { // as many as begin at once have come
			let <- struct{}{}
		}
	}
	for range 31 {
		let <- struct{}{}
	}
	wg.Wait()
	if n := most.Load(); n > 32 {
		t.Errorf("%d requests were under way at once, want 32", n)
	}
}

// TestBurstKeepsItsTurns: while the gateway has as much to do as it can, no more begin, and
// they are answered in the order of their coming.
func TestBurstKeepsItsTurns(t *testing.T) {
	l := newLab(t, gateway.Limits{Late: 200 * time.Millisecond, Turn: time.Hour, Watch: time.Hour}, webRoute("web", 80, "/", anyOne))
	l.busy.Store(true)
	var now, most atomic.Int32
	var worker sync.Mutex
	l.instance(ip3, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		worker.Lock()
		time.Sleep(10 * time.Millisecond) // each, so that 32 take longer than Late
		now.Add(-1)
		worker.Unlock()
	}))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { l.want(80, "/", 200, "") })
	}
	wg.Wait()
	if n := most.Load(); n > 32 {
		t.Errorf("%d requests were under way at once, want 32", n)
	}
}

// TestSlowRequestsLoseTheirTurn: requests that take long, while the gateway has little to do
// or for too long, keep no others from beginning, though others are answered all the time.
func TestSlowRequestsLoseTheirTurn(t *testing.T) {
	for name, c := range map[string]struct {
		lim  gateway.Limits
		busy bool
	}{"little to do": {gateway.Limits{Turn: time.Hour, Watch: time.Hour}, false}, "too long": {gateway.Limits{Watch: time.Hour}, true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, c.lim, webRoute("web", 80, "/", anyOne))
			l.busy.Store(c.busy)
			var slow atomic.Int32
			let := make(chan struct{})
			l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					slow.Add(1)
					<-let
				}
			}))
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(let)
			for range 100 {
				wg.Go(func() { l.want(80, "/slow", 200, "") })
				wg.Go(func() { l.want(80, "/", 200, "") })
			}
			eventually(t, "all slow requests are under way", func() bool { return slow.Load() == 100 })
		})
	}
}

// TestBurstSharesFewConnections: while they come free all the time they are used again.
func TestBurstSharesFewConnections(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Moment: patience}}, webRoute("web", 80, "/", anyOne))
	a := l.counted()
	for range 5 {
		l.want(80, "/", 200, "hello")
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { l.want(80, "/", 200, "hello") })
	}
	wg.Wait()
	if n := a.conns.Load(); n > 1+8+4 {
		t.Errorf("%d connections arrived, want 13 at most", n)
	}
}

// TestNobodyWaitsForWhatStays: connections that don't come free, for their requests take
// long or the worker closes them after each, are not waited for, however busy the gateway is.
func TestNobodyWaitsForWhatStays(t *testing.T) {
	for _, path := range []string{"/slow", "/close"} {
		t.Run(path, func(t *testing.T) {
			l := newLab(t, gateway.Limits{Roster: roster.Limits{Moment: patience}, Watch: time.Hour, Turn: time.Hour}, webRoute("web", 80, "/", anyOne))
			l.busy.Store(true)
			var under atomic.Int32
			let := make(chan struct{})
			l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Connection", "close")
				if r.URL.Path == "/slow" {
					under.Add(1)
					<-let
				}
				fmt.Fprint(w, "hello")
			}))
			var wg sync.WaitGroup
			defer wg.Wait()
			open := sync.OnceFunc(func() { close(let) })
			defer open()
			for range 12 {
				wg.Go(func() { l.want(80, "/slow", 200, "hello") })
			}
			eventually(t, "those that take long are under way", func() bool { return under.Load() == 12 })
			if path == "/close" {
				open() // from here on all end soon
			}
			for range 15 {
				wg.Go(func() { l.want(80, "/close", 200, "hello") })
			}
			if path == "/close" {
				return
			}
			l.want(80, "/", 200, "hello")
		})
	}
}

// TestBusy: it is the process that is, not what it waits for.
func TestBusy(t *testing.T) {
	busy := gateway.Busy()
	busy()
	time.Sleep(100 * time.Millisecond)
	if busy() {
		t.Error("a process that sleeps is busy")
	}
}

// TestFewGoroutinesStay: after a burst.
func TestFewGoroutinesStay(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.counted()
	l.want(80, "/close", 200, "hello")
	before := runtime.NumGoroutine()
	conns := make([]net.Conn, 100)
	for n := range conns {
		conns[n] = l.raw(80, netip.Addr{})
		fmt.Fprint(conns[n], "GET /close HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for _, c := range conns {
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
	}
	if n := runtime.NumGoroutine(); n < before+50 {
		t.Fatalf("%d goroutines for 100 connections, %d without", n, before)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "no more goroutines than wait for the next connections", func() bool { return runtime.NumGoroutine() <= before+32 })
}

// TestStreamsKeepNoTurns: connections that were upgraded, however fast, and stay open.
func TestStreamsKeepNoTurns(t *testing.T) {
	l := newLab(t, gateway.Limits{Late: time.Hour}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, head string) {
		if strings.Contains(head, "Upgrade") {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		} else {
			_, _ = io.WriteString(c, length("hello"))
		}
	})
	for n := range 40 {
		c := l.raw(80, netip.Addr{})
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("upgrade %d: %v, %v", n, res, err)
		}
	}
	l.want(80, "/", 200, "hello")
}

// TestTurnsWaitForNoClient: a request whose body does not come, and one whose answer goes on
// after its first bytes, keep no others from beginning, however busy the gateway is.
func TestTurnsWaitForNoClient(t *testing.T) {
	for name, request := range map[string]string{
		"body": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"long": "GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, gateway.Limits{Turn: time.Hour, Watch: time.Hour}, webRoute("web", 80, "/", anyOne))
			l.busy.Store(true)
			let := make(chan struct{})
			defer close(let)
			l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "hello")
				if r.URL.Path == "/events" {
					w.(http.Flusher).Flush()
					<-let
				} else {
					_, _ = io.Copy(io.Discard, r.Body)
				}
			}))
			for range 40 {
				fmt.Fprint(l.raw(80, netip.Addr{}), request)
			}
			l.want(80, "/", 200, "hello")
		})
	}
}

// TestTimeOutWhileOthersAreAnswered: a connection that does not come about is made again also
// where the others' requests need no new ones, and the host is not asked.
func TestTimeOutWhileOthersAreAnswered(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Reconnect: 300 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	came, let := make(chan struct{}), make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(came)
			<-let
		}
		fmt.Fprint(w, "hello")
	}))
	var wg sync.WaitGroup
	wg.Go(func() { l.want(80, "/slow", 200, "hello") })
	<-came
	l.lose(at3, 1)
	unlucky := make(chan struct{})
	go func() {
		defer close(unlucky)
		l.want(80, "/", 200, "hello")
	}()
	eventually(t, "it is connecting", func() bool { return l.dials(at3) == 2 })
	close(let)
	wg.Wait()
	for done := false; !done; {
		l.want(80, "/", 200, "hello")
		select {
		case <-unlucky:
			done = true
		default:
		}
	}
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}
