package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/network"
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

// A ceiling of the tenant refuses what is above it before anything changes, and lowers what is
// in force on VMMs that run.
func TestCeilings(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.plain()
	ceil := func(percent int) {
		t.Helper()
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Ceilings: &mvm.Limits{CPUPercent: percent}}); err != nil {
			t.Fatal(err)
		}
	}
	ceil(400)
	h.changeLimit("plain", 300)
	h.awaitLimit(i.ID, 300)
	ceil(60)
	h.awaitLimit(i.ID, 60)
	p, err := h.a.Pool(ctx(t), "acme", "plain")
	if err != nil || p.InForce.CPUPercent != 60 || p.Spec.Limits.CPUPercent != 300 {
		t.Errorf("the pool asks for %d, and %d is in force, %v; want 300 and 60", p.Spec.Limits.CPUPercent, p.InForce.CPUPercent, err)
	}

	more := p.Spec
	more.Limits.CPUPercent, more.Desired.Running = 301, more.Desired.Running+1
	_, err = h.a.UpdatePool(ctx(t), "acme", "plain", mvm.PoolUpdate{Spec: &more})
	if got, _ := h.a.Pool(ctx(t), "acme", "plain"); !mvm.IsKind(err, mvm.KindQuota) || got.Spec.Desired != p.Spec.Desired {
		t.Errorf("more than the ceiling: %v, desired %+v; want it refused and nothing changed", err, got.Spec.Desired)
	}
	more.ID, more.Desired = "another", mvm.Counts{}
	if _, err := h.a.CreatePool(ctx(t), "acme", more); !mvm.IsKind(err, mvm.KindQuota) {
		t.Errorf("a new pool above the ceiling: %v, want it refused", err)
	}
	d := mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme", Ceilings: &mvm.Limits{CPUPercent: 50}}, Pools: []mvm.PoolSpec{p.Spec, more}}
	_, err = h.a.Apply(ctx(t), d, mvm.ApplyOptions{}, nil)
	if of, _, _ := h.a.Tenant(ctx(t), "acme"); !mvm.IsKind(err, mvm.KindQuota) || of.Ceilings.CPUPercent != 60 {
		t.Errorf("deploy above the ceiling: %v, the ceiling is %d; want it refused and nothing changed", err, of.Ceilings.CPUPercent)
	}
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Ceilings: &mvm.Limits{CPUPercent: 6451}}); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a ceiling that is no limit: %v, want it refused", err)
	}
	ceil(0)
	h.awaitLimit(i.ID, 150)
}

// A VMM that started or woke without its limits gets them later, and `why` tells of it until then.
func TestLimitsOwedFromTheStart(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.plain()
	h.changeLimit("plain", 71)
	unlimited := func(want string) {
		t.Helper()
		s, err := h.a.Why(ctx(t), mvm.Address{Instance: i.ID})
		if err != nil || (s.Instance.Unlimited != "") != (want != "") || !strings.Contains(s.Instance.Unlimited, want) {
			t.Errorf("why says %q, %v; want %q", s.Instance.Unlimited, err, want)
		}
	}
	var refusing atomic.Bool
	for what, begin := range map[string][2]mvm.OpKind{"start": {mvm.OpStop, mvm.OpStart}, "wake": {mvm.OpSleep, mvm.OpWake}} {
		for kind, again := range map[mvm.Kind]string{mvm.KindUnavailable: "no cgroup now; mvm tries again", mvm.KindInvalid: "no cgroup now"} {
			h.failing(func(op fake.Op, id string) error {
				if id == i.ID && (op == fake.OpStartLimit || op == fake.OpLimit && refusing.Load()) {
					return mvm.Errorf(kind, "no cgroup now")
				}
				return nil
			})
			refusing.Store(true)
			for _, op := range begin {
				h.do(i.ID, op)
			}
			if got := h.limitOf(i.ID); got != 0 {
				t.Errorf("%s: it has the limit %d", what, got)
			}
			unlimited(again)
			refusing.Store(false)
			if kind == mvm.KindInvalid {
				continue // the host never can
			}
			h.awaitLimit(i.ID, 71)
			testenv.Eventually(t, time.Minute, func() error {
				if s, err := h.a.Why(ctx(t), mvm.Address{Instance: i.ID}); err != nil || s.Instance.Unlimited != "" {
					return errors.Join(fmt.Errorf("why says %q", s.Instance.Unlimited), err)
				}
				return nil
			})
		}
	}
}

// Stats tell of the frames that the network dropped of an instance.
func TestDroppedFramesAreInStats(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.plain()
	h.net.Drop(i.ID, network.Drops{Sent: 3, Received: 4})
	h.net.Drop("i-00000bad", network.Drops{Sent: 100})
	s, err := h.a.Stats(ctx(t), mvm.Address{Instance: i.ID})
	if err != nil || s.DroppedFrames != 7 {
		t.Errorf("%d dropped frames, %v; want 7", s.DroppedFrames, err)
	}
}
