package agent_test

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/sys"
)

// inBubble runs the test on a virtual clock, with an agent that reconciles.
func inBubble(t *testing.T, test func(t *testing.T, h *host)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.every = 30 * time.Second
		h.listen = func(*sys.Folder, string) (net.Listener, error) { return newDeafListener(), nil }
		h.start()
		defer h.stop()
		test(t, h)
	})
}

// deafListener is a host-bound socket to which nobody connects.
type deafListener struct {
	closed chan struct{}
	once   sync.Once
}

func newDeafListener() *deafListener { return &deafListener{closed: make(chan struct{})} }

func (l *deafListener) Accept() (net.Conn, error) { <-l.closed; return nil, net.ErrClosed }
func (l *deafListener) Close() error              { l.once.Do(func() { close(l.closed) }); return nil }
func (l *deafListener) Addr() net.Addr            { return &net.UnixAddr{} }

// makePool makes a pool in tenant acme, which is made too where it is not there.
func (h *host) makePool(spec mvm.PoolSpec) {
	h.t.Helper()
	if _, err := h.a.CreateTenant(ctx(h.t), mvm.TenantSpec{ID: "acme"}); err != nil && !mvm.IsKind(err, mvm.KindExists) {
		h.t.Fatal(err)
	}
	if _, err := h.a.CreatePool(ctx(h.t), "acme", spec); err != nil {
		h.t.Fatal(err)
	}
}

// change changes a pool's spec.
func (h *host) change(pool string, change func(*mvm.PoolSpec)) {
	h.t.Helper()
	p, err := h.a.Pool(ctx(h.t), "acme", pool)
	if err != nil {
		h.t.Fatal(err)
	}
	change(&p.Spec)
	if _, err := h.a.UpdatePool(ctx(h.t), "acme", pool, mvm.PoolUpdate{Spec: &p.Spec}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) all(pool string) []mvm.Instance {
	h.t.Helper()
	is, err := h.a.Instances(ctx(h.t), mvm.Address{Tenant: "acme", Pool: pool})
	if err != nil {
		h.t.Fatal(err)
	}
	return is
}

// counts are how many instances of the pool are in each state.
func (h *host) counts(pool string) mvm.Counts {
	var c mvm.Counts
	for _, i := range h.all(pool) {
		switch i.State {
		case mvm.StateRunning:
			c.Running++
		case mvm.StateWarm:
			c.Warm++
		case mvm.StateSleeping:
			c.Sleeping++
		}
	}
	return c
}

func (h *host) wantCounts(when, pool string, want mvm.Counts) {
	h.t.Helper()
	if got := h.counts(pool); got != want {
		h.t.Errorf("%s: pool %s has %+v, want %+v", when, pool, got, want)
	}
}

// events are the actions of the log, with who asked.
func (h *host) events() (out []mvm.Event) {
	h.t.Helper()
	if err := h.a.Events(ctx(h.t), mvm.EventFilter{}, func(e mvm.Event) error { out = append(out, e); return nil }); err != nil {
		h.t.Fatal(err)
	}
	return out
}

func desired(spec mvm.PoolSpec, running, warm, sleeping int) mvm.PoolSpec {
	spec.Desired = mvm.Counts{Running: running, Warm: warm, Sleeping: sleeping}
	return spec
}

// settled lets everything happen that needs no more than the time.
func settled(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestReconcileFillsAndTrims(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 2, 1, 1))
		settled(time.Second)
		h.wantCounts("at first", "workers", mvm.Counts{Running: 2, Warm: 1, Sleeping: 1})
		for _, e := range h.events() {
			if e.Instance != "" && (e.By.Kind != mvm.AskerReconcile || e.Action == mvm.InstanceCreated && e.Why == "") {
				t.Errorf("event %+v, want it by reconcile, with its reason", e)
			}
		}
		before := len(h.events())
		settled(10 * time.Minute)
		if n := len(h.events()); n != before {
			t.Errorf("%d events while nothing changed", n-before)
		}
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired = mvm.Counts{Running: 3, Sleeping: 1} })
		settled(time.Second)
		h.wantCounts("scaled up", "workers", mvm.Counts{Running: 3, Sleeping: 1})
		awake := slices.DeleteFunc(h.all("workers"), func(i mvm.Instance) bool { return i.State != mvm.StateRunning })
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired = mvm.Counts{Running: 1} })
		settled(time.Second)
		h.wantCounts("scaled down", "workers", mvm.Counts{Running: 1, Sleeping: 3})
		oldest := slices.MinFunc(awake, func(a, b mvm.Instance) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
		if i, _ := h.a.Instance(ctx(t), oldest.Address()); i.State != mvm.StateRunning {
			t.Errorf("the oldest is %s: the newest ones sleep first", i.State)
		}
	})
}

func TestReconcileWaitsForMinimumTimes(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		spec := desired(worker("workers"), 2, 0, 0)
		spec.Policy.MinRunningSeconds = 60
		h.makePool(spec)
		settled(time.Second)
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 1 })
		settled(50 * time.Second)
		h.wantCounts("before the minimum time", "workers", mvm.Counts{Running: 2})
		deferred := 0
		for _, e := range h.events() {
			if e.Action == mvm.TransitionDeferred && strings.Contains(e.Detail, "min_running_seconds") {
				deferred++
			}
		}
		if deferred != 1 {
			t.Errorf("%d deferrals on record, want 1", deferred)
		}
		settled(15 * time.Second)
		h.wantCounts("after the minimum time", "workers", mvm.Counts{Running: 1, Sleeping: 1})
	})
}

func TestReconcileBringsBackWhatDied(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 2, 0, 0))
		settled(time.Hour)
		victim := h.all("workers")[0]
		h.host.Crash(victim.ID)
		settled(5 * time.Second)
		h.wantCounts("after a crash", "workers", mvm.Counts{Running: 2})
		if n := len(h.all("workers")); n != 2 {
			t.Errorf("%d instances, want the same 2", n)
		}
		if err := h.destroy(victim.ID); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		h.wantCounts("after it was destroyed", "workers", mvm.Counts{Running: 2})
	})
}

func (h *host) destroy(id string) error {
	_, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.ParseAsker("cli:root")), mvm.Address{Instance: id}, mvm.OpRequest{Op: mvm.OpDestroy}, nil)
	return err
}

// TestReconcileBacksOff: an instance that can't start is tried again ever more seldom,
// says what is wrong, and keeps no other from its place.
func TestReconcileBacksOff(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 3, 0, 0))
		settled(time.Second)
		victim, tries := h.all("workers")[0].ID, 0
		h.failing(func(op fake.Op, id string) error {
			if op == fake.OpStart && id == victim {
				tries++
				return errors.New("broken on purpose")
			}
			return nil
		})
		h.host.Crash(victim)
		settled(time.Hour)
		if tries < 10 || tries > 30 {
			t.Errorf("%d tries in an hour, want at first many and then one in five minutes", tries)
		}
		h.wantCounts("while one can't start", "workers", mvm.Counts{Running: 2})
		i, err := h.a.Instance(ctx(t), mvm.Address{Instance: victim})
		if err != nil || !strings.Contains(i.Problem, "broken on purpose") {
			t.Errorf("problem %q, %v; want it to say what failed", i.Problem, err)
		}
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 4 })
		settled(500 * time.Millisecond)
		h.wantCounts("scaled up meanwhile", "workers", mvm.Counts{Running: 3})
		h.failing(nil)
		h.change("workers", func(s *mvm.PoolSpec) { s.Env = map[string]string{"A": "b"} }) // tried at once after a change
		settled(time.Minute)
		h.wantCounts("mended", "workers", mvm.Counts{Running: 4})
		if i, _ := h.a.Instance(ctx(t), mvm.Address{Instance: victim}); i.Problem != "" {
			t.Errorf("problem %q stays", i.Problem)
		}
	})
}

// TestReconcileFinishesMaking: an instance whose making failed, and that nobody needs by
// now, is not left half made.
func TestReconcileFinishesMaking(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 0, 0, 0))
		settled(time.Second)
		failed := false
		h.onSeam(func(point string) error {
			if point == "reconcile.task:before" && !failed {
				failed = true
				return errors.New("broken on purpose")
			}
			return nil
		})
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 1 })
		settled(100 * time.Millisecond)
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 0 })
		if i := h.all("workers")[0]; !failed || i.Op == nil {
			t.Fatalf("instance %+v, want its making to have failed with the intent on record", i)
		}
		settled(time.Minute)
		if i := h.all("workers")[0]; i.Op != nil || i.State != mvm.StateReady {
			t.Errorf("a minute later it is %s with %+v under way, want it made, and nothing under way", i.State, i.Op)
		}
	})
}

// TestReconcileCrashLoop: a VMM that dies as soon as it runs is not started over and over.
func TestReconcileCrashLoop(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 1, 0, 0))
		settled(time.Second)
		id := h.all("workers")[0].ID
		starts := 0
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpStart {
				starts++
			}
			return nil
		})
		for range 3600 {
			h.host.Crash(id)
			settled(time.Second)
		}
		if starts > 30 {
			t.Errorf("%d starts in an hour of crashes", starts)
		}
	})
}

func TestReconcileLeavesAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 1, 0, 0))
		h.makePool(desired(worker("critical"), 1, 0, 0))
		h.makePool(desired(worker("pinned"), 1, 0, 0))
		settled(time.Second)
		h.change("critical", func(s *mvm.PoolSpec) { s.Critical = true })
		h.change("pinned", func(s *mvm.PoolSpec) { s.Pinned = true })
		by := mvm.WithAsker(ctx(t), mvm.ParseAsker("cli:root"))
		for _, pool := range []string{"workers", "critical"} {
			if _, err := h.a.Operate(by, mvm.Address{Instance: h.all(pool)[0].ID}, mvm.OpRequest{Op: mvm.OpStop}, nil); err != nil {
				t.Fatal(err)
			}
		}
		h.change("pinned", func(s *mvm.PoolSpec) { s.Desired.Running = 0 })
		settled(9 * time.Minute)
		h.wantCounts("stopped by hand", "workers", mvm.Counts{})
		settled(2 * time.Minute)
		h.wantCounts("ten minutes later", "workers", mvm.Counts{Running: 1})
		h.wantCounts("critical", "critical", mvm.Counts{})
		h.wantCounts("pinned", "pinned", mvm.Counts{Running: 1})

		i := h.asPolicy(h.all("workers")[0].ID, mvm.OpSleep)
		settled(time.Hour)
		if now, _ := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID}); now.State != mvm.StateSleeping {
			t.Errorf("what the policy put to rest is %s", now.State)
		}
	})
}

// TestReconcileQuota: what the quota does not let be is done when it does.
func TestReconcileQuota(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("a"), 6, 0, 0))
		h.makePool(desired(worker("b"), 6, 0, 0))
		settled(time.Minute)
		if a, b := h.counts("a").Running, h.counts("b").Running; a+b != 8 {
			t.Errorf("%d and %d run, want 8 together: max_running", a, b)
		}
		h.change("a", func(s *mvm.PoolSpec) { s.Desired.Running = 2 })
		settled(time.Second)
		h.wantCounts("what one gave up", "b", mvm.Counts{Running: 6})
		q := mvm.DefaultQuota()
		q.MaxRunning = 12
		h.change("a", func(s *mvm.PoolSpec) { s.Desired.Running = 6 })
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &q}); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		h.wantCounts("with a larger quota", "a", mvm.Counts{Running: 6})
	})
}

// TestReconcileGatewaysFirst: workers come up when the gateways answer; gateways that
// fail keep nobody waiting for good.
func TestReconcileGatewaysFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.host.Behave("", fake.Behavior{ReadyAfter: 5 * time.Second})
		gw := desired(worker("gateways"), 1, 0, 0)
		gw.Role = mvm.RoleGateway
		h.makePool(desired(worker("workers"), 0, 0, 0))
		h.makePool(gw)
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 2 })
		settled(4 * time.Second)
		if n := len(h.all("workers")); n > 0 || h.counts("gateways").Running != 1 {
			t.Errorf("%d workers while the gateway was not ready", n)
		}
		settled(2 * time.Second)
		h.wantCounts("once the gateway answers", "workers", mvm.Counts{Running: 2})

		h.failing(func(op fake.Op, id string) error {
			if op == fake.OpStart && slices.ContainsFunc(h.all("gateways"), func(i mvm.Instance) bool { return i.ID == id }) {
				return errors.New("broken on purpose")
			}
			return nil
		})
		h.host.Crash(h.all("gateways")[0].ID)
		settled(10 * time.Second)
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 3 })
		settled(10 * time.Second)
		h.wantCounts("while the gateway fails", "workers", mvm.Counts{Running: 3})
	})
}

// TestReconcileRollsOut: what is behind its pool is restarted, one after the other.
func TestReconcileRollsOut(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.host.Behave("", fake.Behavior{ReadyAfter: 5 * time.Second})
		h.makePool(desired(worker("workers"), 3, 0, 1))
		settled(2 * time.Minute)
		h.wantCounts("at first", "workers", mvm.Counts{Running: 3, Sleeping: 1})
		h.change("workers", func(s *mvm.PoolSpec) { s.Flake, s.Resources.MemMiB = "builtin:other", 256 })
		for range 60 {
			settled(time.Second)
			ready := 0
			for _, i := range h.all("workers") {
				if i.State == mvm.StateRunning && i.Ready {
					ready++
				}
			}
			if ready < 2 {
				t.Fatalf("only %d are ready during the roll-out", ready)
			}
		}
		p, _ := h.a.Pool(ctx(t), "acme", "workers")
		for _, i := range h.all("workers") {
			if current := i.Image == p.Builds[0].Digest && i.Res.MemMiB == 256; current != (i.State == mvm.StateRunning) {
				t.Errorf("%s is %s with image %s and %d MiB", i.ID, i.State, i.Image, i.Res.MemMiB)
			}
		}
		sleeper := h.all("workers")[slices.IndexFunc(h.all("workers"), func(i mvm.Instance) bool { return i.State == mvm.StateSleeping })]
		woken := h.do(sleeper.ID, mvm.OpWake)
		if woken.Image != p.Builds[0].Digest || woken.Res.MemMiB != 256 || woken.Last.Kind != "cold" || !strings.Contains(woken.Last.Reason, "image") {
			t.Errorf("the sleeper woke as %+v, want a cold boot on the new image, and why", woken.Last)
		}
	})
}
