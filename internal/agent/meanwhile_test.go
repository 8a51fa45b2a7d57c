package agent_test

import (
	"errors"
	"testing"

	"mvm"
)

// TestPoolChangedMeanwhile: an update that says of which spec it is changes no other, and
// a deployment does not put back what somebody changed after it looked.
func TestPoolChangedMeanwhile(t *testing.T) {
	h := newHost(t)
	h.start()
	h.makePool(worker("workers"))
	old := worker("workers")
	h.change("workers", func(s *mvm.PoolSpec) { s.Pinned = true })
	mine := old
	mine.Desired.Running = 1
	_, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &mine, If: &old})
	h.wantPinned("an update of the old spec", err)
	now, err := h.a.Pool(ctx(t), "acme", "workers")
	if err != nil {
		t.Fatal(err)
	}
	mine = now.Spec
	mine.Resources.MemMiB *= 2
	if _, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &mine, If: &now.Spec}); err != nil {
		t.Errorf("an update of the present spec: %v", err)
	}

	h.change("workers", func(s *mvm.PoolSpec) { s.Pinned = false })
	h.onSeam(func(point string) error {
		if point == "apply.update-pool:before" {
			h.change("workers", func(s *mvm.PoolSpec) { s.Pinned = true })
		}
		return nil
	})
	_, err = h.a.Apply(ctx(t), deployment(old), mvm.ApplyOptions{NoWait: true}, nil)
	h.onSeam(nil)
	h.wantPinned("a deployment that looked before", err)
}

func (h *host) wantPinned(what string, err error) {
	h.t.Helper()
	p, _ := h.a.Pool(ctx(h.t), "acme", "workers")
	if !mvm.IsKind(err, mvm.KindState) || !p.Spec.Pinned {
		h.t.Errorf("%s: %v, pinned %v; want it refused, and the pool as somebody else left it", what, err, p.Spec.Pinned)
	}
}

// TestApplyIsChecked: what a deployment would change is checked as it is then, and nothing
// changes where the check says no.
func TestApplyIsChecked(t *testing.T) {
	h := newHost(t)
	h.start()
	d := deployment(worker("workers"))
	for n, want := range []struct{ tenant, pools int }{{0, 0}, {1, 1}} {
		asked := false
		check := func(have *mvm.Tenant, pools []mvm.Pool) error {
			asked = true
			if (have != nil) != (want.tenant == 1) || len(pools) != want.pools {
				t.Errorf("run %d: asked of %v and %d pools, want %+v", n, have, len(pools), want)
			}
			return errOnPurpose
		}
		d.Pools[0].Pinned = n == 1
		for _, dry := range []bool{true, false} {
			if _, err := h.a.Apply(ctx(t), d, mvm.ApplyOptions{Dry: dry, NoWait: true, Check: check}, nil); !errors.Is(err, errOnPurpose) || !asked {
				t.Errorf("run %d, dry %v: %v, asked %v; want what the check says", n, dry, err, asked)
			}
		}
		if ps, err := h.a.Pools(ctx(t), ""); err != nil || len(ps) != want.pools || len(ps) == 1 && ps[0].Spec.Pinned {
			t.Errorf("run %d: there are %v, %v; want what was there", n, ps, err)
		}
		d.Pools[0].Pinned = false
		if _, err := h.a.Apply(ctx(t), d, mvm.ApplyOptions{NoWait: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTenantChangedMeanwhile: an update of a tenant that says what it was made from changes
// nothing else, and a deployment does not put back what somebody changed after it looked.
func TestTenantChangedMeanwhile(t *testing.T) {
	h := newHost(t)
	h.start()
	h.makePool(worker("workers"))
	old, _, err := h.a.Tenant(ctx(t), "acme")
	if err != nil {
		t.Fatal(err)
	}
	more := func(running, warm int) *mvm.Quota {
		q := old.Quota
		q.MaxRunning, q.MaxWarm = running, warm
		return &q
	}
	raise := func() {
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: more(50, 4)}); err != nil {
			t.Fatal(err)
		}
	}
	raise()
	pinned, ports := true, []int{8080}
	for what, up := range map[string]mvm.TenantUpdate{
		"the quota": {Quota: more(8, 5)}, "quota and flag": {Quota: more(8, 5), Pinned: &pinned},
	} {
		_, err := h.a.UpdateTenant(ctx(t), "acme", up.From(old))
		h.wantMaxRunning50("an update of "+what, err)
	}
	now, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Pinned: &pinned, HostServices: &ports}.From(old))
	if err != nil || !now.Pinned || now.Quota.MaxRunning != 50 {
		t.Errorf("an update of what nobody changed: %v, %+v", err, now)
	}
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{HostServices: &[]int{}}.From(old)); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("an update of ports that changed: %v", err)
	}

	d := deployment(worker("workers"))
	d.Tenant.Quota, d.Tenant.Pinned, d.Tenant.HostServices = more(8, 5), true, ports
	h.onSeam(func(point string) error {
		if point == "apply.update-tenant:before" {
			_, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: more(50, 3)})
			return err
		}
		return nil
	})
	_, err = h.a.Apply(ctx(t), d, mvm.ApplyOptions{NoWait: true}, nil)
	h.onSeam(nil)
	h.wantMaxRunning50("a deployment that looked before", err)
}

func (h *host) wantMaxRunning50(what string, err error) {
	h.t.Helper()
	now, _, _ := h.a.Tenant(ctx(h.t), "acme")
	if !mvm.IsKind(err, mvm.KindState) || now.Quota.MaxRunning != 50 {
		h.t.Errorf("%s: %v, max_running %d; want it refused, and 50 kept", what, err, now.Quota.MaxRunning)
	}
}
