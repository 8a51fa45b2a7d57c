package agent_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// sleepers makes an instance that sleeps, and copies of it as the pool has instances.
func (h *host) sleepers(n int) (all []mvm.Instance) {
	h.t.Helper()
	i := h.instance()
	for {
		all = append(all, h.do(i.ID, mvm.OpSleep))
		if len(all) == n {
			return all
		}
		next, err := h.a.CreateInstance(ctx(h.t), "acme", "workers", "")
		if err != nil {
			h.t.Fatal(err)
		}
		i = h.do(next.ID, mvm.OpStart)
	}
}

// TestSleepersAreNotLookedForOneByOne: when the agent starts, one look at the host tells
// that nothing of the sleepers is there. The driver is asked for none of them, and each
// can still be woken and destroyed. One of which something is there is looked for.
func TestSleepersAreNotLookedForOneByOne(t *testing.T) {
	h := newHost(t)
	h.start()
	all := h.sleepers(5)
	h.do(all[4].ID, mvm.OpWake)
	h.stop()
	var mu sync.Mutex
	asked := map[string]int{}
	h.failing(func(op fake.Op, id string) error {
		if op == fake.OpRecover || op == fake.OpDestroy {
			mu.Lock()
			defer mu.Unlock()
			asked[id]++
		}
		return nil
	})
	h.start()
	mu.Lock()
	for n, i := range all {
		if got, runs := asked[i.ID], n == 4; (got > 0) != runs {
			t.Errorf("instance %d, which runs: %v, was looked for %d times", n, runs, got)
		}
	}
	mu.Unlock()
	for _, i := range all {
		h.do(i.ID, mvm.OpWake)
		h.do(i.ID, mvm.OpDestroy)
	}
	h.wantNothing()
}

// TestInstancesAreTakenUpAtOnce: a VMM that is slow to answer holds up no other one's
// take-up when the agent starts.
func TestInstancesAreTakenUpAtOnce(t *testing.T) {
	h := newHost(t)
	h.start()
	all := h.sleepers(3)
	for _, i := range all {
		h.do(i.ID, mvm.OpWake)
	}
	h.stop()
	var mu sync.Mutex
	here, together := 0, make(chan struct{})
	h.failing(func(op fake.Op, id string) error {
		if op != fake.OpRecover {
			return nil
		}
		mu.Lock()
		if here++; here == len(all) {
			close(together)
		}
		mu.Unlock()
		select {
		case <-together:
			return nil
		case <-time.After(20 * time.Second):
			return errors.New("no other VMM is taken up meanwhile")
		}
	})
	h.start()
	for _, i := range all {
		if got := h.get(i.ID); got.State != mvm.StateRunning || got.Problem != "" {
			t.Errorf("%s is %s: %s", i.ID, got.State, got.Problem)
		}
		h.exec(i.ID, "true")
	}
}
