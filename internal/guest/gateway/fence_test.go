package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

func TestFenceCutsOffPooledConnections(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	s := l.instance(ip3, named("before"))
	for range 3 {
		l.want(80, "/", 200, "before")
	}
	if n := l.dials("10.240.5.3:80"); n != 1 {
		t.Errorf("%d connections for 3 requests, want one that is kept", n)
	}
	eventually(t, "the requests have ended", func() bool { return l.router.Active() == 0 })
	if n := l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}); n != 0 {
		t.Errorf("Fence = %d, want 0", n)
	}
	s.CloseClientConnections()
	l.instance(ip3, named("after"))
	l.want(80, "/", 200, "after")
	if n := len(l.host.asked()); n != 2 {
		t.Errorf("the host was asked %d times, want twice", n)
	}
}

func TestConnectionKeptByARequestAcrossAFenceIsNotUsedAgain(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	started, finish := make(chan struct{}), make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(started)
			<-finish
		}
		fmt.Fprint(w, r.RemoteAddr)
	}))
	slow := make(chan string)
	go func() {
		_, _, body := l.do("GET", 80, "/slow", "")
		slow <- body
	}()
	<-started
	if n := l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}); n != 1 {
		t.Errorf("Fence with a request under way = %d, want 1", n)
	}
	close(finish)
	former := <-slow
	if _, _, now := l.do("GET", 80, "/", ""); now == former || now == "" {
		t.Errorf("the request after the fence came over %q, the connection from before it", now)
	}
}

func TestAnswerOlderThanAFenceIsAskedAgain(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	got := make(chan string)
	go func() {
		_, _, body := l.do("GET", 80, "/", "")
		got <- body
	}()
	eventually(t, "the host is asked", func() bool { return len(l.host.asked()) == 1 })
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	close(gate)
	if body := <-got; body != "three / " {
		t.Errorf("got %q", body)
	}
	if n := len(l.host.asked()); n != 2 {
		t.Errorf("the host was asked %d times, want again after the fence", n)
	}
}

func TestFenceEndsAttemptsToConnect(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne), tcpRoute("ssh", 22, "", anyOne))
	l.instance(ip3, named("three"))
	l.tcp(ip3, echo)
	for _, c := range []struct {
		addr string
		get  func()
	}{
		{"10.240.5.3:80", func() { l.want(80, "/", 200, "three") }},
		{"10.240.5.3:22", func() { tell(t, l.raw(22, netip.Addr{}), "hello") }},
	} {
		l.lose(c.addr, 1000) // until the host is asked again
		before := len(l.host.asked())
		l.host.script(func(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
			if len(l.host.asked()) == before+2 {
				l.lose(c.addr, 0)
			}
			return says(awake3)(ctx, a)
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.get()
		}()
		eventually(t, "it connects", func() bool { return l.dials(c.addr) > 0 })
		l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
		<-done
		if n := len(l.host.asked()) - before; n != 2 {
			t.Errorf("%s: the host was asked %d times, want again after the fence", c.addr, n)
		}
		l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	}
}

func TestAddressThatIsAnothersNow(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("path", 80, "/u", byKey("path")))
	l.instance(ip3, named("three"))
	l.want(80, "/u/alice", 200, "three")
	l.host.script(says(guestproto.Awake{InstanceID: id4, IP: ip3}))
	l.want(80, "/u/bob", 200, "three")
	l.host.script(refuses("alice's instance is gone", 0))
	l.want(80, "/u/bob", 200, "three")
	l.want(80, "/u/alice", 502, "no instance is available")
}

func TestAnswerOlderThanTheGatewaysOwnSleepIsAskedAgain(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	gate := make(chan struct{})
	l.host.script(holdUntil(gate))
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.want(80, "/", 200, "three")
	}()
	eventually(t, "the host is asked", func() bool { return len(l.host.asked()) == 1 })
	c := l.config(webRoute("web", 80, "/", anyOne))
	c.Reason = "wake"
	if err := l.router.Configure(c); err != nil {
		t.Fatal(err)
	}
	close(gate)
	<-done
	if n := len(l.host.asked()); n != 2 {
		t.Errorf("the host was asked %d times, want again after the gateway woke", n)
	}
}

func TestGatewaysOwnWakeForgetsWhoIsAwake(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	l.want(80, "/", 200, "three")
	c := l.config(webRoute("web", 80, "/", anyOne))
	for _, reason := range []string{"update", "wake"} {
		c.Reason = reason
		if err := l.router.Configure(c); err != nil {
			t.Fatal(err)
		}
		l.want(80, "/", 200, "three")
		if n, want := len(l.host.asked()), map[string]int{"update": 1, "wake": 2}[reason]; n != want {
			t.Errorf("after %s the host was asked %d times, want %d", reason, n, want)
		}
	}
}
