package agent_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/publish"
	"mvm/internal/testenv"
)

// router stands for what a gateway routes with: it notes what the host says.
type router struct {
	mu    sync.Mutex
	gone  []guestproto.Fence
	peers []guestproto.Peer
}

func (r *router) Configure(guestproto.Configure) error { return nil }

func (r *router) Fence(f guestproto.Fence) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Gone {
		f.RequestID = ""
		r.gone = append(r.gone, f)
	}
	return 0
}

func (r *router) Peers() guestproto.Peers {
	r.mu.Lock()
	defer r.mu.Unlock()
	return guestproto.Peers{Instances: r.peers}
}

func (r *router) Use(string) (int, time.Time) { return 0, time.Time{} }

// of has one instance route with r.
func (r *router) of(id string) func(string) fake.Router {
	return func(other string) fake.Router {
		if other != id {
			return nil
		}
		return r
	}
}

// told reports whether the router was told that the boot of the instance is gone, and
// forgets that.
func (r *router) told(id string, boot int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := false
	for _, f := range r.gone {
		told = told || f.InstanceID == id && f.Boot == boot
	}
	return told
}

func (r *router) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = nil
}

func (r *router) has(peers ...guestproto.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers = peers
}

// force runs an operation without grace.
func (h *host) force(id string, op mvm.OpKind) {
	h.t.Helper()
	if _, err := h.a.Operate(ctx(h.t), mvm.Address{Instance: id}, mvm.OpRequest{Op: op, Force: true}, nil); err != nil {
		h.t.Fatal(err)
	}
}

// TestGatewaysAreToldOfAnEnd: whatever ends an instance's memory, the gateways are told,
// and of a sleep they are not.
func TestGatewaysAreToldOfAnEnd(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	r := &router{}
	h.host.Route(r.of(gw.ID))
	for _, c := range []struct {
		name string
		end  func(id string)
	}{
		{"stop", func(id string) { h.do(id, mvm.OpStop) }},
		{"stop of a sleeper", func(id string) { h.do(id, mvm.OpSleep); h.do(id, mvm.OpStop) }},
		{"forced stop", func(id string) { h.force(id, mvm.OpStop) }},
		{"a VMM that dies", func(id string) { h.host.Crash(id) }},
		{"a guest that powers off", func(id string) {
			h.host.Behave(id, fake.Behavior{Poweroff: true, Only: []string{"Ping", "Status", "SleepPrep"}})
			_ = h.try(id, mvm.OpSleep)
			h.host.Behave(id, fake.Behavior{})
		}},
		{"a wake without its snapshot", func(id string) {
			h.do(id, mvm.OpSleep)
			h.failing(func(op fake.Op, _ string) error {
				if op == fake.OpRestore {
					return &driver.SnapshotError{Err: errOnPurpose}
				}
				return nil
			})
			_ = h.try(id, mvm.OpWake)
			h.failing(nil)
		}},
		{"destruction", func(id string) { h.do(id, mvm.OpDestroy) }},
	} {
		i := h.do(w.ID, mvm.OpStart)
		r.forget()
		h.do(i.ID, mvm.OpSleep)
		h.do(i.ID, mvm.OpWake)
		if r.told(i.ID, i.DiskGeneration) {
			t.Errorf("%s: the gateway was told of an end before it", c.name)
		}
		c.end(i.ID)
		waitUntil(t, func() bool { return r.told(i.ID, i.DiskGeneration) })
	}
}

// TestBootIsTold: an answer names the boot, which is another after each start and the
// same after a sleep.
func TestBootIsTold(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	boot := func() int {
		t.Helper()
		r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers", Spread: true}}).AcquireResult
		if r == nil || !r.Success || len(r.Instances) != 1 {
			t.Fatalf("acquire: %+v", r)
		}
		return r.Instances[0].Boot
	}
	first := boot()
	h.do(w.ID, mvm.OpSleep)
	if b := boot(); first == 0 || b != first {
		t.Errorf("boot %d after a sleep, want %d still", b, first)
	}
	h.do(w.ID, mvm.OpStop)
	if b := boot(); b <= first {
		t.Errorf("boot %d after a stop, want another than %d", b, first)
	}
}

// TestGatewaysThatMissedAnEndAreAsked: one that was mute, one that slept, and all after
// the agent was away.
func TestGatewaysThatMissedAnEndAreAsked(t *testing.T) {
	h, gw, w, other := gatewayHost(t)
	r := &router{}
	h.host.Route(r.of(gw.ID))
	h.do(w.ID, mvm.OpStop)
	i := h.do(w.ID, mvm.OpStart)
	alive := guestproto.Peer{InstanceID: i.ID, Boot: i.DiskGeneration}
	former := guestproto.Peer{InstanceID: i.ID, Boot: i.DiskGeneration - 1}
	strange := guestproto.Peer{InstanceID: other.ID, Boot: other.DiskGeneration}
	never := guestproto.Peer{InstanceID: "i-00000000", Boot: 1}
	bad := guestproto.Peer{InstanceID: "../x", Boot: 1}
	r.has(alive, former, strange, never, bad)
	check := func(what string, want ...guestproto.Peer) {
		t.Helper()
		for _, p := range want {
			waitUntil(t, func() bool { return r.told(p.InstanceID, p.Boot) })
		}
		if r.told(bad.InstanceID, bad.Boot) || r.told(alive.InstanceID, alive.Boot) != (len(want) == 4) {
			t.Errorf("%s: told of %+v", what, r.gone)
		}
		r.forget()
	}
	h.stop()
	h.start()
	check("an agent that was away", former, strange, never)
	h.do(gw.ID, mvm.OpSleep)
	h.do(gw.ID, mvm.OpWake)
	check("a gateway that slept", former, strange, never)

	h.host.Behave(gw.ID, fake.Behavior{Garbage: true, Only: []string{"Fence"}})
	h.host.Crash(i.ID)
	waitUntil(t, func() bool { return h.get(i.ID).State == mvm.StateStopped })
	h.host.Behave(gw.ID, fake.Behavior{})
	check("a gateway that did not answer", alive, former, strange, never)
}

// TestConnectionsOfAnEarlierBootDoNotCount: connections to an instance that has ended are
// no use of its next boot, also where a gateway's report of them comes late.
func TestConnectionsOfAnEarlierBootDoNotCount(t *testing.T) {
	idling(t, func(h *idleHost, w mvm.Instance) {
		gw := h.pool("acme", idleGateway(1))
		open := func(boot int) guestproto.Activity {
			return guestproto.Activity{InstanceID: w.ID, Boot: boot, Open: 1, LastActive: time.Now()}
		}
		boot := h.get(w.ID).DiskGeneration
		h.report(gw.ID, open(boot))
		h.wantAwake(w.ID, "1 connection is open through gateway "+gw.ID)
		h.host.host.Crash(w.ID)
		time.Sleep(time.Second)
		h.do(w.ID, mvm.OpStart)
		h.want(25*time.Second, w.ID, mvm.StateSleeping)
		h.do(w.ID, mvm.OpWake)
		h.report(gw.ID, open(boot))
		h.want(25*time.Second, w.ID, mvm.StateSleeping)
		h.do(w.ID, mvm.OpWake)
		h.report(gw.ID, open(boot+1))
		h.wantAwake(w.ID, "1 connection is open through gateway "+gw.ID)
	})
}

// TestClientsOfAGatewayThatIsGoneAreReset: nothing comes from the gateway any more, not
// even the end of its connections.
func TestClientsOfAGatewayThatIsGoneAreReset(t *testing.T) {
	guest, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 8)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	t.Cleanup(func() {
		_ = guest.Close()
		wg.Wait()
		close(accepted)
		for c := range accepted {
			_ = c.Close()
		}
	})
	h := newHost(t)
	pub := publish.New(publish.Options{})
	t.Cleanup(func() { _ = pub.Close() })
	h.pub = pub
	h.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, guest.Addr().String())
	}
	h.start()
	h.instance()
	spec := worker("gateways")
	spec.Role, spec.Publish = mvm.RoleGateway, []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80}}
	gw := h.pool("acme", spec)
	for name, end := range map[string]func(){
		"its VMM dies": func() { h.host.Crash(gw.ID) },
		"forced stop":  func() { h.force(gw.ID, mvm.OpStop) },
		"stop":         func() { h.do(gw.ID, mvm.OpStop) },
	} {
		h.do(gw.ID, mvm.OpStart)
		p, err := h.a.Pool(ctx(t), "acme", "gateways")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", p.Bound[0].String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(testenv.Patience))
		back := <-accepted
		end()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client got %v, want a reset", name, err)
		}
		_, _ = c.Close(), back.Close()
	}
}
