package agent_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// crashAt makes the agent stop dead when it comes to the point: the goroutine that
// is there ends without undoing anything, as with kill -9.
func (h *host) crashAt(point string) (crashed <-chan struct{}) {
	ch := make(chan struct{})
	var once sync.Once
	h.onSeam(func(p string) error {
		if p == point {
			hit := false
			once.Do(func() { hit = true; close(ch) })
			if hit {
				runtime.Goexit()
			}
		}
		return nil
	})
	return ch
}

// crashDuring begins the operation as the asker, stops the agent dead at the point, and
// starts the next one, which is waited for until nothing is queued at the instance.
func (h *host) crashDuring(point, id string, by mvm.Asker, req mvm.OpRequest) {
	h.t.Helper()
	crashed := h.crashAt(point)
	c, cancel := context.WithCancel(mvm.WithAsker(ctx(h.t), by))
	var wg sync.WaitGroup
	wg.Go(func() { h.a.Operate(c, mvm.Address{Instance: id}, req, nil) })
	<-crashed
	cancel()
	wg.Wait()
	h.onSeam(nil)
	h.stop()
	h.start()
	waitUntil(h.t, func() bool { n, _ := h.a.Queued(id); return n == 0 })
}

// points are the named points that an operation passes when nothing goes wrong.
func points(t *testing.T, op mvm.OpKind, prepare ...mvm.OpKind) []string {
	h := suspending(t, fake.Behavior{})
	i := h.instance()
	for _, p := range prepare {
		h.do(i.ID, p)
	}
	var mu sync.Mutex
	var got []string
	h.onSeam(func(p string) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, p)
		return nil
	})
	h.do(i.ID, op)
	h.onSeam(nil)
	return got
}

func TestCrashInEveryStep(t *testing.T) {
	for _, c := range []struct {
		op      mvm.OpKind
		prepare []mvm.OpKind
		// ends are the states that the instance may be in after recovery.
		ends []mvm.State
		// keeps: what the guest had in memory is there after a wake.
		keeps bool
	}{
		{mvm.OpStart, []mvm.OpKind{mvm.OpStop}, []mvm.State{mvm.StateRunning, mvm.StateStopped}, false},
		{mvm.OpSleep, nil, []mvm.State{mvm.StateRunning, mvm.StateSleeping}, true},
		{mvm.OpSleep, []mvm.OpKind{mvm.OpWarm}, []mvm.State{mvm.StateRunning, mvm.StateSleeping, mvm.StateWarm}, true},
		{mvm.OpWake, []mvm.OpKind{mvm.OpSleep}, []mvm.State{mvm.StateRunning, mvm.StateSleeping}, true},
		{mvm.OpWarm, nil, []mvm.State{mvm.StateRunning, mvm.StateWarm}, true},
		{mvm.OpResume, []mvm.OpKind{mvm.OpWarm}, []mvm.State{mvm.StateRunning, mvm.StateWarm}, true},
		{mvm.OpStop, nil, []mvm.State{mvm.StateStopped, mvm.StateRunning}, false},
		{mvm.OpStop, []mvm.OpKind{mvm.OpSleep}, []mvm.State{mvm.StateStopped, mvm.StateSleeping}, false},
		{mvm.OpRestart, nil, []mvm.State{mvm.StateRunning}, false},
		{mvm.OpRestart, []mvm.OpKind{mvm.OpSleep}, []mvm.State{mvm.StateRunning, mvm.StateSleeping}, false},
		{mvm.OpDestroy, nil, []mvm.State{mvm.StateDestroyed, mvm.StateRunning}, false},
	} {
		all := points(t, c.op, c.prepare...)
		if len(all) == 0 {
			t.Fatalf("%s passes no point", c.op)
		}
		for _, point := range all {
			ends := c.ends
			if c.op == mvm.OpRestart && point != "restart.begin:before" && point != "stop.intent:before" {
				ends = []mvm.State{mvm.StateRunning} // once it is on record it starts
			}
			t.Run(string(c.op)+"/"+point, func(t *testing.T) { crashOnce(t, c.op, c.prepare, point, ends, c.keeps) })
		}
	}
}

func crashOnce(t *testing.T, op mvm.OpKind, prepare []mvm.OpKind, point string, ends []mvm.State, keeps bool) {
	h := suspending(t, fake.Behavior{})
	i := h.instance()
	boot := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id")
	for _, p := range prepare {
		h.do(i.ID, p)
	}
	h.crashDuring(point, i.ID, mvm.AskerFrom(ctx(t)), mvm.OpRequest{Op: op})

	got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
	if mvm.IsKind(err, mvm.KindNotFound) {
		got.State = mvm.StateDestroyed
	} else if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(ends, got.State) || got.Op != nil {
		t.Fatalf("after recovery: %s with op %+v, want one of %v", got.State, got.Op, ends)
	}
	if n := len(h.host.VMMs()); got.State.HoldsMemory() != (n == 1) || n > 1 {
		t.Errorf("after recovery: %s with %d VMMs", got.State, n)
	}
	if got.State == mvm.StateDestroyed {
		h.wantNothing()
		return
	}
	if got.State == mvm.StateRunning && (got.Held || h.held(i.ID)) {
		t.Error("after recovery: it runs and its service holds still")
	}
	if keeps {
		h.do(i.ID, mvm.OpStart)
		if now := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id"); now != boot {
			t.Errorf("the guest was booted again: its memory is lost")
		}
	}
	h.do(i.ID, mvm.OpDestroy)
	h.wantNothing()
}

// TestCrashWhileDestroying: a tenant or pool that was on its way out is gone after a
// restart, with all that it had.
func TestCrashWhileDestroying(t *testing.T) {
	for what, destroy := range map[string]func(context.Context, *host) error{
		"tenant": func(c context.Context, h *host) error { return h.a.DestroyTenant(c, "acme", nil) },
		"pool":   func(c context.Context, h *host) error { return h.a.DestroyPool(c, "acme", "workers", nil) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			h.start()
			h.instance()
			crashed := h.crashAt("destroy.files:before")
			c, cancel := context.WithCancel(ctx(t))
			var wg sync.WaitGroup
			wg.Go(func() { _ = destroy(c, h) })
			<-crashed
			cancel()
			wg.Wait()
			h.onSeam(nil)
			h.stop()
			h.start()
			waitUntil(t, func() bool {
				pools, err := h.a.Pools(ctx(t), "acme")
				return mvm.IsKind(err, mvm.KindNotFound) || what == "pool" && err == nil && len(pools) == 0
			})
			h.wantNothing()
		})
	}
}

// TestCutOffWakeIsItsAskers: a wake that a crash or a fault cut off is finished for who
// asked. Reconcile, whose pool wants the instance asleep, leaves it to who uses it.
func TestCutOffWakeIsItsAskers(t *testing.T) {
	gateway := mvm.ParseAsker("gateway:i-0a0b0c0d")
	for _, point := range []string{"wake.restore:before", "wake.gate:before"} {
		t.Run(point, func(t *testing.T) {
			h := newHost(t)
			h.every = 24 * time.Hour
			h.start()
			h.makePool(desired(worker("workers"), 0, 0, 1))
			waitUntil(t, func() bool {
				all := h.all("workers")
				return len(all) == 1 && all[0].State == mvm.StateSleeping && all[0].Op == nil
			})
			id := h.all("workers")[0].ID
			h.crashDuring(point, id, gateway, mvm.OpRequest{Op: mvm.OpWake, Why: "POST /x"})
			if _, err := h.a.Reconcile(ctx(t), mvm.ReconcileRequest{Tenant: "acme"}, nil); err != nil {
				t.Fatal(err)
			}
			got := h.get(id)
			if got.State != mvm.StateRunning || got.Last == nil || got.Last.Op != mvm.OpWake || got.Last.By != gateway || got.Last.Why != "POST /x" {
				t.Errorf("it is %s, last %+v; want it running, woken by %s", got.State, got.Last, gateway)
			}
		})
	}
}
