package agent

import (
	"context"

	"mvm"
	"mvm/internal/fleet"
	"mvm/internal/limits"
	"mvm/internal/store"
)

// limited has the limits of VMMs, by the records.
type limited struct{ a *Agent }

var _ fleet.Limits = limited{}

// Of returns the limits that the instance's VMM should have.
func (l limited) Of(i mvm.Instance) (out mvm.Limits, err error) {
	err = l.a.opt.Store.View(func(tx *store.Tx) error {
		t, err := tx.Tenant(i.Tenant)
		if err != nil {
			return err
		}
		p, err := tx.Pool(i.Tenant, i.Pool)
		out = limits.InForce(p.Spec.Limits, t.Ceilings, i.Res.VCPUs)
		return err
	})
	return out, err
}

// Changed implements fleet.Limits.
func (l limited) Changed(ctx context.Context, below mvm.Address) {
	all, err := l.a.fleet.Instances(ctx, below)
	if err != nil {
		l.a.log.Error("change limits", "pool", below.String(), "error", err)
		return
	}
	l.a.live.Limit(ctx, all)
}
