package plan_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/plan"
)

// What nothing may stop by itself is not destroyed because a state leaves it out.
func TestPruneSpares(t *testing.T) {
	byHand := func(w *world) {
		for _, i := range w.instances {
			i.ManualOverrideUntil = now.Add(time.Minute)
		}
	}
	for name, c := range map[string]struct {
		pool   mvm.PoolSpec
		pinned bool
		change func(*world)
		note   string
	}{
		"critical":      {pool: critical(poolSpec("old", mvm.RoleWorker, 1, 0, 0)), note: "it is critical"},
		"pinned":        {pool: pinned(poolSpec("old", mvm.RoleWorker, 1, 0, 0)), note: "it is pinned"},
		"pinned tenant": {pool: poolSpec("old", mvm.RoleWorker, 1, 0, 0), pinned: true, note: "tenant acme is pinned"},
		"by hand":       {pool: poolSpec("old", mvm.RoleWorker, 1, 0, 0), change: byHand, note: "by hand"},
	} {
		t.Run(name, func(t *testing.T) {
			all, d := deployment(c.pool), deployment()
			all.Tenant.Pinned, d.Tenant.Pinned = c.pinned, c.pinned
			w := newWorld()
			w.run(t, all, plan.Options{})
			if c.change != nil {
				c.change(w)
			}
			p := w.run(t, d, plan.Options{Prune: true})
			if len(p.Steps) != 0 || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "pool acme/old is not in the deployment") || !strings.Contains(p.Notes[0], c.note) {
				t.Errorf("got %v %q, want no step and a note that says %q", lines(p), p.Notes, c.note)
			}
			d.Pools = []mvm.PoolSpec{poolSpec("new", mvm.RoleWorker, 0, 0, 0)}
			d.Tenant.Quota = new(mvm.Quota)
			*d.Tenant.Quota = mvm.DefaultQuota()
			d.Tenant.Quota.MaxPools = 1
			if _, err := plan.Make(d, w.observed(), plan.Options{Prune: true}); !mvm.IsKind(err, mvm.KindQuota) {
				t.Errorf("got %v, want what stays counted against max_pools", err)
			}
		})
	}
	w := newWorld()
	w.run(t, deployment(poolSpec("old", mvm.RoleWorker, 1, 0, 0)), plan.Options{})
	for _, i := range w.instances {
		i.ManualOverrideUntil = now
	}
	if p := w.run(t, deployment(), plan.Options{Prune: true}); !cmp.Equal(lines(p), []string{"destroy acme/old"}) {
		t.Errorf("got %v, want it to go once the override has ended", lines(p))
	}
}

// A gateway pool that got another id keeps its ports: they leave the pool that the
// deployment no longer names. Those that nobody else asks for stay.
func TestPortsMoveToTheirNewPool(t *testing.T) {
	at := func(host string, guest int) mvm.Publish {
		return mvm.Publish{Host: netip.MustParseAddrPort(host), Guest: guest}
	}
	gateway := func(id string, pubs ...mvm.Publish) mvm.PoolSpec {
		s := poolSpec(id, mvm.RoleGateway, 0, 0, 0)
		s.Publish = pubs
		return s
	}
	w := newWorld()
	w.run(t, deployment(gateway("old", at("127.0.0.1:8080", 80), at("127.0.0.1:8081", 81), at("127.0.0.1:0", 82))), plan.Options{})
	renamed := deployment(gateway("new", at("0.0.0.0:8080", 80), at("127.0.0.1:0", 82)))
	p := w.run(t, renamed, plan.Options{})
	if got, want := lines(p)[0], "update acme/old"; got != want {
		t.Errorf("got first %q, want %q", got, want)
	}
	want := []mvm.Publish{at("127.0.0.1:8081", 81), at("127.0.0.1:0", 82)}
	if got := w.pools["old"].Spec.Publish; !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })) {
		t.Errorf("the old pool publishes %v, want %v", got, want)
	}
	if p := w.run(t, renamed, plan.Options{}); len(p.Steps) != 0 {
		t.Errorf("got %v in the second run, want nothing", lines(p))
	}
	w = newWorld()
	w.run(t, deployment(gateway("old", at("127.0.0.1:8080", 80))), plan.Options{})
	if p := w.run(t, renamed, plan.Options{Prune: true}); strings.HasPrefix(lines(p)[0], "update") {
		t.Errorf("got %v, want a pool that goes not to be changed first", lines(p))
	}
}
