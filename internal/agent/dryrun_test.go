package agent_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/driver/fake"
)

// wantAsSaid has the deployment applied, and checks that it does what its dry run says.
func (h *host) wantAsSaid(d mvm.Deployment, want ...string) {
	h.t.Helper()
	lines := func(steps []mvm.PlanStep, err error) (out []string) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
		for _, s := range steps {
			out = append(out, s.Action+" "+s.Target)
		}
		slices.Sort(out)
		return out
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, lines(h.a.Apply(h.t.Context(), d, mvm.ApplyOptions{Dry: true}, nil))); diff != "" {
		h.t.Errorf("the dry run (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, lines(h.a.Apply(h.t.Context(), d, mvm.ApplyOptions{}, nil))); diff != "" {
		h.t.Errorf("the run (-want +got):\n%s", diff)
	}
}

// TestDryRunOfParked: an instance that rests because it was idle is restarted for its new
// size and rests again. It stands for the running one, and is not woken.
func TestDryRunOfParked(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		d := deployment(desired(worker("workers"), 1, 0, 0))
		if err := h.apply(d); err != nil {
			t.Fatal(err)
		}
		settled(10 * time.Minute)
		i := h.all("workers")[0]
		h.asPolicy(i.ID, mvm.OpWarm)
		d.Pools[0].Resources.MemMiB *= 2
		h.wantAsSaid(d, "update acme/workers", "restart "+i.Address().String())
		settled(time.Minute)
		if i = h.all("workers")[0]; i.State != mvm.StateWarm || !i.Parked || i.Res.MemMiB != d.Pools[0].Resources.MemMiB {
			t.Errorf("it is %s with %d MiB, parked %v; want it warm and parked with its new size", i.State, i.Res.MemMiB, i.Parked)
		}
		h.wantAsSaid(d)
	})
}

// TestDryRunBesideOperation: an instance with an operation under way is restarted after
// it. The dry run says so, and the run waits for both.
func TestDryRunBesideOperation(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		d := deployment(desired(worker("workers"), 1, 0, 0))
		if err := h.apply(d); err != nil {
			t.Fatal(err)
		}
		settled(10 * time.Minute)
		i := h.all("workers")[0]
		h.asPolicy(i.ID, mvm.OpWarm)
		h.host.Behave(i.ID, fake.Behavior{Only: []string{"Configure"}, Delay: time.Second})
		var wg sync.WaitGroup
		wg.Go(func() { // a request's, which takes a while
			if _, err := h.a.Operate(mvm.WithAsker(ctx(t), mvm.ParseAsker("gateway:i-0a0b0c0d")), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil); err != nil {
				t.Error(err)
			}
		})
		settled(100 * time.Millisecond)
		if i = h.all("workers")[0]; i.State != mvm.StateWarm || i.Op == nil {
			t.Fatalf("it is %s, operation %v; want it warm with its wake under way", i.State, i.Op)
		}
		d.Pools[0].Env = map[string]string{"A": "b"}
		h.wantAsSaid(d, "update acme/workers", "restart "+i.Address().String())
		wg.Wait()
		h.wantAsSaid(d)
	})
}
