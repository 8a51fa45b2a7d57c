package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/publish"
)

// holdAt stops whoever comes to the point first, until goOn is called.
func (h *host) holdAt(point string) (reached <-chan struct{}, goOn func()) {
	at, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.onSeam(func(p string) error {
		if p == point {
			once.Do(func() { close(at); <-let })
		}
		return nil
	})
	return at, sync.OnceFunc(func() { close(let) })
}

// Once the vCPUs ran nothing calls a wake off: what the guest has done since would be
// lost, or the guest would stay behind its gate.
func TestWakeIsNotCalledOffOnceTheGuestRan(t *testing.T) {
	for _, point := range []string{"wake.resume:after", "wake.gate:after", "wake.settle:after"} {
		for _, then := range []mvm.OpKind{mvm.OpStop, mvm.OpSleep} {
			h := newHost(t)
			h.start()
			i := h.instance()
			h.do(i.ID, mvm.OpSleep)
			reached, goOn := h.holdAt(point)
			woken, after := make(chan error, 1), make(chan error, 1)
			go func() { woken <- h.try(i.ID, mvm.OpWake) }()
			<-reached
			go func() { after <- h.try(i.ID, then) }()
			waitUntil(t, func() bool { n, _ := h.a.Queued(i.ID); return n == 2 })
			goOn()
			if err := <-woken; err != nil {
				t.Errorf("%s, %s: the wake was called off: %v", point, then, err)
			}
			if err := <-after; err != nil {
				t.Errorf("%s, %s: %v", point, then, err)
			}
			if n := count(h.actions("acme"), mvm.InstanceWoken); n != 1 {
				t.Errorf("%s, %s: %d wakes on record, want 1", point, then, n)
			}
			h.stop()
		}
	}
}

// A change that comes while a guest takes the one before it is not forgotten.
func TestChangeDuringADeliveryIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		var now atomic.Pointer[netip.Addr]
		old, next := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		now.Store(&old)
		looked := make(chan struct{}, 1000)
		h.dns = func() []netip.Addr {
			select {
			case looked <- struct{}{}:
			default:
			}
			return []netip.Addr{*now.Load()}
		}
		var hold atomic.Bool
		let := make(chan struct{})
		h.host.host.OnRequest(func(_, request string) {
			if request == "Configure" && hold.CompareAndSwap(true, false) {
				<-let
			}
		})
		h.start()
		h.tenant()
		s := worker("workers")
		s.Resources.DataDiskMiB = 0
		i := h.pool("acme", s)
		for len(looked) > 0 {
			<-looked
		}
		<-looked // the agent has just looked, and looks again in 5 s
		time.Sleep(4 * time.Second)
		hold.Store(true)
		done := make(chan error, 1)
		go func() {
			_, err := h.a.SetSecrets(context.Background(), "acme", map[string][]byte{"token": []byte("one")})
			done <- err
		}()
		synctest.Wait() // the guest has the old resolvers before it, and takes its time
		now.Store(&next)
		<-looked
		synctest.Wait() // the change is known
		close(let)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		h.after(30*time.Second, i.ID)
		if g, _ := h.host.host.Guest(i.ID); g.Config == nil || !slices.Equal(g.Config.Net.DNS, []netip.Addr{next}) {
			t.Errorf("half a minute later the guest has %+v, want resolver %s", g.Config, next)
		}
	})
}

// The VMM of a sleep counts until it is gone, though the sleep is committed.
func TestVMMOfACommittedSleepCounts(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	q := mvm.DefaultQuota()
	q.MaxMemMiB = i.Res.MemMiB
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &q}); err != nil {
		t.Fatal(err)
	}
	more, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
	if err != nil {
		t.Fatal(err)
	}
	reached, goOn := h.holdAt("sleep.release:before")
	defer goOn()
	slept := make(chan error, 1)
	go func() { slept <- h.try(i.ID, mvm.OpSleep) }()
	<-reached
	if got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID}); err != nil || got.State != mvm.StateSleeping || len(h.host.VMMs()) != 1 {
		t.Fatalf("%s, %d VMMs, %v; want a committed sleep whose VMM is there", got.State, len(h.host.VMMs()), err)
	}
	if err := h.try(more.ID, mvm.OpStart); !mvm.IsKind(err, mvm.KindQuota) {
		t.Errorf("another one is started beside its VMM: %v, %d VMMs", err, len(h.host.VMMs()))
	}
	goOn()
	if err := <-slept; err != nil {
		t.Fatal(err)
	}
	if err := h.try(more.ID, mvm.OpStart); err != nil {
		t.Errorf("once it is gone: %v", err)
	}
}

// Who forces does not join who does not: it comes next, by its own rules.
func TestForcedStopDoesNotJoinAPatientOne(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	reached, goOn := h.holdAt("stop.fence:before")
	defer goOn()
	var wg sync.WaitGroup
	defer wg.Wait()
	for n, force := range []bool{false, true, true, false} {
		wg.Go(func() {
			_, _ = h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpStop, Force: force}, nil)
		})
		want := []int{1, 2, 2, 3}[n]
		<-reached
		waitUntil(t, func() bool { got, _ := h.a.Queued(i.ID); return got >= want })
		for range 20 { // one that joins adds nothing
			if got, _ := h.a.Queued(i.ID); got != want {
				t.Errorf("request %d (force %v): %d in the queue, want %d", n, force, got, want)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	goOn()
}

// gatedPublisher stops every Apply, once it is told to, until it is let go on.
type gatedPublisher struct {
	gated, taken atomic.Bool
	at, goOn     chan struct{}
}

func (p *gatedPublisher) Apply(b []publish.Binding) ([]publish.Outcome, error) {
	if p.gated.Load() {
		p.at <- struct{}{}
		<-p.goOn
	}
	out := make([]publish.Outcome, len(b))
	for n, x := range b {
		if out[n].Addr = x.Publish.Host; p.taken.Load() {
			out[n] = publish.Outcome{Err: errors.New("the port is taken")}
		}
	}
	return out, nil
}

func (p *gatedPublisher) Close() error { return nil }

// What became of ports that a pool does not publish any more says nothing of those that
// it publishes now: the agent was just trying the old one again.
func TestOldOutcomeSaysNothingOfANewPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		pub := &gatedPublisher{at: make(chan struct{}), goOn: make(chan struct{})}
		pub.taken.Store(true)
		h.pub = pub
		h.start()
		h.tenant()
		on := func(port uint16) []mvm.Publish {
			return []mvm.Publish{{Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Guest: 8000}}
		}
		gateways := worker("gateways")
		gateways.Role, gateways.Routes, gateways.Publish = mvm.RoleGateway, &mvm.RoutingTable{}, on(9001)
		if _, err := h.a.CreatePool(ctx(t), "acme", gateways); err == nil {
			t.Fatal("the port is taken, and was published")
		}
		get := func() mvm.Pool {
			p, err := h.a.Pool(ctx(t), "acme", "gateways")
			if err != nil {
				t.Error(err)
			}
			return p
		}
		pub.gated.Store(true)
		<-pub.at // it is tried again
		pub.taken.Store(false)
		spec := get().Spec
		spec.Publish = on(9002)
		done := make(chan error, 1)
		go func() {
			_, err := h.a.UpdatePool(ctx(t), "acme", "gateways", mvm.PoolUpdate{Spec: &spec})
			done <- err
		}()
		for get().Spec.Publish[0].Host.Port() != 9002 {
			runtime.Gosched() // on a virtual clock, and who waits for a lock keeps it from going on
		}
		pub.goOn <- struct{}{}
		<-pub.at // the outcome of the old port is on record, or was dropped
		if p := get(); len(p.Bound) > 0 {
			t.Errorf("port 9002 is said to be published at %v", p.Bound)
		}
		pub.gated.Store(false)
		pub.goOn <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if p := get(); p.Unpublished != "" || len(p.Bound) != 1 || p.Bound[0].Port() != 9002 {
			t.Errorf("published at %v, problem %q; want 9002", p.Bound, p.Unpublished)
		}
	})
}
