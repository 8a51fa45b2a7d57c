package plan_test

import (
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
			if len(p.Steps) != 0 || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "pool acme/old is not named") || !strings.Contains(p.Notes[0], c.note) {
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
