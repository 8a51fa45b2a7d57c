package agent_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/testenv"
)

// changeLimit changes a limit of the pool.
func (h *host) changeLimit(pool string, percent int) {
	h.t.Helper()
	p, err := h.a.Pool(ctx(h.t), "acme", pool)
	if err == nil {
		p.Spec.Limits.CPUPercent = percent
		_, err = h.a.UpdatePool(ctx(h.t), "acme", pool, mvm.PoolUpdate{Spec: &p.Spec})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// limitOf is the limit in force.
func (h *host) limitOf(id string) int {
	for _, v := range h.host.VMMs() {
		if v.ID == id {
			return v.Limits.CPUPercent
		}
	}
	return 0
}

func (h *host) awaitLimit(id string, want int) {
	h.t.Helper()
	testenv.Eventually(h.t, time.Minute, func() error {
		if got := h.limitOf(id); got != want {
			return fmt.Errorf("the limit of %s is %d, want %d", id, got, want)
		}
		return nil
	})
}

// Limits that a VMM does not take are tried again, also by an agent that starts later; those
// that the host can't have are not.
func TestLimitsAreTriedAgain(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.plain()
	var asked atomic.Int32
	refuse := func(times int32, err error) {
		asked.Store(0)
		h.failing(func(op fake.Op, id string) error {
			if op == fake.OpLimit && id == i.ID && asked.Add(1) <= times {
				return err
			}
			return nil
		})
	}
	never, later := mvm.Errorf(mvm.KindInvalid, "the host can't"), mvm.Errorf(mvm.KindUnavailable, "not now")

	refuse(1, later)
	h.changeLimit("plain", 71)
	if h.limitOf(i.ID) == 71 {
		t.Error("it was not refused")
	}
	h.awaitLimit(i.ID, 71)

	refuse(1, later)
	h.changeLimit("plain", 73)
	h.stop()
	refuse(0, nil)
	h.start()
	h.awaitLimit(i.ID, 73)

	refuse(1, never)
	h.changeLimit("plain", 74)
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	refuse(0, nil)
	h.a.RetryLimits(ctx(t))
	if n := asked.Load(); n != 0 {
		t.Errorf("what the host can't have was asked for %d times more", n)
	}
}
