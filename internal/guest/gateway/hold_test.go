package gateway_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// holdUntil answers every question with three once gate is closed.
func holdUntil(gate <-chan struct{}) func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
	return func(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
		select {
		case <-gate:
			return says(awake3)(ctx, a)
		case <-ctx.Done():
			return guestproto.AcquireResult{}, ctx.Err()
		}
	}
}

func TestTwentyRequestsAreOneQuestion(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("path", 80, "/u", byKey("path")))
	l.instance(ip3, named("three"))
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			path, body := fmt.Sprintf("/u/alice/%d", i), fmt.Sprintf("body %d", i)
			if code, _, got := l.do("POST", 80, path, body); code != 200 || got != "three "+path+" "+body {
				t.Errorf("%s: %d %q", path, code, got)
			}
		})
	}
	eventually(t, "20 requests held", func() bool { return l.router.Active() == 20 })
	close(gate)
	wg.Wait()
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
	eventually(t, "nothing is active after all", func() bool { return l.router.Active() == 0 })
}

func TestHoldingIsBounded(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Held: 5, HeldPerTarget: 3}}, webRoute("path", 80, "/u", byKey("path")))
	l.instance(ip3, named("three"))
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	var wg sync.WaitGroup
	held := func(key string, n int) {
		for range n {
			wg.Go(func() { l.want(80, "/u/"+key, 200, "three") })
		}
	}
	tooMany := func(key string) {
		t.Helper()
		code, h, got := l.do("GET", 80, "/u/"+key, "")
		if code != 503 || h.Get("Retry-After") != "5" || !strings.Contains(got, "too many requests are waiting") {
			t.Errorf("past the bound: %d, Retry-After %q, %q", code, h.Get("Retry-After"), got)
		}
	}
	held("alice", 3)
	eventually(t, "3 held", func() bool { return l.router.Active() == 3 })
	tooMany("alice")
	held("bob", 2)
	eventually(t, "5 held", func() bool { return l.router.Active() == 5 })
	tooMany("bob")
	tooMany("carol")
	close(gate)
	wg.Wait()
	l.want(80, "/u/carol", 200, "three")
}

func TestHoldingTimeIsBounded(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Hold: 50 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	l.host.script(holdUntil(nil))
	code, h, got := l.do("GET", 80, "/", "")
	if code != 503 || h.Get("Retry-After") != "5" || h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("past the time: %d %v %q", code, h, got)
	}
	eventually(t, "the question has ended too", func() bool { n, _ := l.router.Known(); return n == 0 })
	l.instance(ip3, named("three"))
	l.host.script(says(awake3))
	l.want(80, "/", 200, "three")
}

func TestRefusalsAreExplained(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("path", 80, "/u", byKey("path")))
	for _, c := range []struct {
		answer func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error)
		status int
		retry  string
		text   string
	}{
		{refuses("max_running 8 is reached", 30), 503, "30", "no instance is available now\n"},
		{refusesFailing(5), 503, "5", "the instance runs, but its service does not come up\n"},
		{refuses("pool workers is not there\x1b[31m", 0), 502, "", "no instance is available\n"},
		{broken, 503, "5", "the host does not answer"},
		{func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
			return guestproto.AcquireResult{}, &guestproto.RemoteError{Message: "too many wakes"}
		}, 503, "5", "no instance is available now\n"},
		{says(), 503, "5", "the host named no instance"},
		{says(guestproto.Awake{InstanceID: "../x", IP: ip3}), 503, "5", "the host named no instance"},
	} {
		l.host.script(c.answer)
		code, h, got := l.do("GET", 80, "/u/alice", "")
		if code != c.status || h.Get("Retry-After") != c.retry || !strings.Contains(got, c.text) {
			t.Errorf("got %d, Retry-After %q, %q; want %d, %q, %q", code, h.Get("Retry-After"), got, c.status, c.retry, c.text)
		}
	}
	if targets, _ := l.router.Known(); targets != 0 {
		t.Errorf("%d targets are remembered after refusals, want none", targets)
	}
}

func TestClientThatGivesUpFreesItsPlace(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Held: 1}}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	c := l.raw(80, netip.Addr{})
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	eventually(t, "held", func() bool { return l.router.Active() == 1 })
	_ = c.Close()
	eventually(t, "let go", func() bool { return l.router.Active() == 0 })
	close(gate)
	l.want(80, "/", 200, "three")
}

func TestWorkloadThatIsStillComingUp(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	got := make(chan string)
	go func() {
		_, _, body := l.do("GET", 80, "/", "")
		got <- body
	}()
	eventually(t, "refused a few times", func() bool { return l.dials("10.240.5.3:80") >= 3 })
	l.instance(ip3, named("three"))
	if body := <-got; body != "three / " {
		t.Errorf("got %q", body)
	}
	if n := len(l.host.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

func TestWorkloadThatNeverComesUp(t *testing.T) {
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Refused: 30 * time.Millisecond}}, webRoute("web", 80, "/", anyOne))
	code, h, got := l.do("GET", 80, "/", "")
	if code != 503 || h.Get("Retry-After") == "" || !strings.Contains(got, "takes no connections") {
		t.Errorf("got %d %v %q", code, h, got)
	}
}

func TestLostSYNCostsNoSecond(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	l.lose("10.240.5.3:80", 1)
	began := time.Now()
	l.want(80, "/", 200, "three")
	if n := l.dials("10.240.5.3:80"); n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
	t.Logf("answered after %v", time.Since(began))
}

func TestCloseEndsWhatIsHeld(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne),
		mvm.Route{Name: "tcp", Match: mvm.MatchRule{Port: 81}, To: mvm.Target{PoolID: "workers", Selector: anyOne, TargetPort: 80}})
	l.host.script(holdUntil(nil))
	// A prefix on port 80 only: 81 is TCP.
	c, d := l.raw(80, netip.Addr{}), l.raw(81, netip.Addr{})
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	eventually(t, "both held", func() bool { return l.router.Active() == 2 })
	if err := l.router.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(make([]byte, 1)); err == nil {
		t.Errorf("the TCP connection got %d bytes", n)
	}
	if err := l.router.Configure(l.config()); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("configure after close: %v", err)
	}
}
