package agent_test

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// alone runs the test on a virtual clock, on a host with one running worker that no policy
// puts to rest. After a crash nobody asks the agent for anything.
func alone(t *testing.T, test func(t *testing.T, h *idleHost, i mvm.Instance)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		h.start()
		h.tenant()
		s := worker("workers")
		s.Resources.DataDiskMiB = 0
		test(t, h, h.pool("acme", s))
	})
}

// crashIn begins the operation and stops the agent dead at the point.
func (h *idleHost) crashIn(id string, op mvm.OpKind, point string) {
	h.t.Helper()
	crashed := h.crashAt(point)
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.try(id, op) })
	<-crashed
	h.onSeam(nil)
	h.stop()
	wg.Wait()
}

// A boot that was cut off is begun again, wherever it was.
func TestCutOffBootIsRedoneUnasked(t *testing.T) {
	for _, point := range []string{"start.network:before", "start.vmm:before", "start.vmm:after", "start.gate:after"} {
		alone(t, func(t *testing.T, h *idleHost, i mvm.Instance) {
			h.do(i.ID, mvm.OpStop)
			h.crashIn(i.ID, mvm.OpStart, point)
			h.start()
			if got := h.after(time.Minute, i.ID); got.State != mvm.StateRunning || !got.Ready || got.Op != nil {
				t.Errorf("cut off at %s: %s, ready %v, op %+v a minute after the agent's start; want it running", point, got.State, got.Ready, got.Op)
			}
		})
	}
}

// A VMM that recovery can't end counts until it is gone: its instance keeps the intent.
func TestIntentOutlivesItsVMM(t *testing.T) {
	alone(t, func(t *testing.T, h *idleHost, i mvm.Instance) {
		h.do(i.ID, mvm.OpStop)
		h.crashIn(i.ID, mvm.OpStart, "start.vmm:after")
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpDestroy || op == fake.OpKill {
				return errors.New("it does not end")
			}
			return nil
		})
		h.start()
		got := h.get(i.ID)
		if n := len(h.host.host.VMMs()); n != 1 {
			t.Fatalf("%d VMMs, want the one that does not end", n)
		}
		if got.Op == nil || got.Problem == "" {
			t.Errorf("its VMM runs, and its record has op %+v, problem %q", got.Op, got.Problem)
		}
		q := mvm.DefaultQuota()
		q.MaxRunning = 1
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &q}); err != nil {
			t.Fatal(err)
		}
		more, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.try(more.ID, mvm.OpStart); !mvm.IsKind(err, mvm.KindQuota) {
			t.Errorf("another one is started beside it: %v", err)
		}
		h.failing(nil)
		if got := h.after(time.Minute, i.ID); got.Op != nil || len(h.host.host.VMMs()) > 1 {
			t.Errorf("once it ends: op %+v, %d VMMs", got.Op, len(h.host.host.VMMs()))
		}
	})
}

// What the host could not take up when the agent started is taken up as soon as it can.
func TestWhatWasNotTakenUpIsTriedAgainUnasked(t *testing.T) {
	alone(t, func(t *testing.T, h *idleHost, i mvm.Instance) {
		boot := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id")
		h.stop()
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpRecover {
				return syscall.EMFILE
			}
			return nil
		})
		h.start()
		if got := h.get(i.ID); got.Problem == "" {
			t.Fatalf("it was taken up: %+v", got)
		}
		h.failing(nil)
		if got := h.after(30*time.Second, i.ID); got.State != mvm.StateRunning || got.Op != nil || len(h.host.host.VMMs()) != 1 {
			t.Fatalf("half a minute later: %s, op %+v, problem %q", got.State, got.Op, got.Problem)
		}
		if now := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id"); now != boot {
			t.Error("it was booted again: what its memory held is lost")
		}
	})
}

// A stop that failed half-way is finished, wherever it failed, and nobody asks again.
func TestHalfDoneStopIsFinishedUnasked(t *testing.T) {
	for _, c := range []struct {
		from  mvm.OpKind
		point string
	}{
		{mvm.OpStart, "stop.fence:after"}, {mvm.OpStart, "stop.release:before"}, {mvm.OpStart, "stop.discard:before"},
		{mvm.OpWarm, "stop.release:before"}, {mvm.OpSleep, "stop.release:before"}, {mvm.OpSleep, "stop.discard:before"},
	} {
		alone(t, func(t *testing.T, h *idleHost, i mvm.Instance) {
			h.do(i.ID, c.from)
			var mu sync.Mutex
			left := 1
			h.onSeam(func(p string) error {
				mu.Lock()
				defer mu.Unlock()
				if p == c.point && left > 0 {
					left--
					return errors.New("made to fail")
				}
				return nil
			})
			if err := h.try(i.ID, mvm.OpStop); err == nil {
				t.Fatal("the stop was to fail")
			}
			if got := h.after(30*time.Second, i.ID); got.State != mvm.StateStopped || got.Op != nil || len(h.host.host.VMMs()) != 0 {
				t.Errorf("after %s, failed at %s: half a minute later %s, op %+v, %d VMMs; want it stopped", c.from, c.point, got.State, got.Op, len(h.host.host.VMMs()))
			}
		})
	}
}
