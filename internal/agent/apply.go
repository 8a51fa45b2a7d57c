package agent

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// Apply implements api.Service. It plans, acts step by step, and stops between
// steps when ctx ends; the next run takes up what is left.
func (a *Agent) Apply(ctx context.Context, d mvm.Deployment, dry bool, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	defer a.applying.lock(d.Tenant.ID)()
	p, err := a.planFor(ctx, d)
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(mvm.Progress) {}
	}
	for _, n := range p.Notes {
		progress(mvm.Progress{Target: d.Tenant.ID, Text: n})
	}
	if dry {
		return p.Display(), nil
	}
	var done []mvm.PlanStep
	for _, s := range p.Steps {
		if ctx.Err() != nil {
			return done, mvm.Errorf(mvm.KindCanceled, "apply %s: %w", d.Tenant.ID, context.Cause(ctx)).
				WithFix("run it again: it takes up what is left")
		}
		shown := s.Display()
		progress(mvm.Progress{Target: shown.Target, Text: shown.Action + ": " + shown.Reason})
		if err := a.applyStep(ctx, s, progress); err != nil {
			return done, mvm.Errorf(mvm.KindOf(err), "apply %s: %s %s: %w", d.Tenant.ID, shown.Action, shown.Target, err)
		}
		done = append(done, shown)
	}
	return done, nil
}

// planFor looks at the tenant as it is and plans from there.
func (a *Agent) planFor(ctx context.Context, d mvm.Deployment) (plan.Plan, error) {
	o := plan.Observed{Now: time.Now()}
	err := a.store.View(func(tx *store.Tx) error {
		t, err := tx.Tenant(d.Tenant.ID)
		if mvm.IsKind(err, mvm.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		o.Tenant = &t
		if o.Pools, err = tx.Pools(t.ID); err != nil {
			return err
		}
		o.Instances, err = tx.Instances(t.ID, "")
		return err
	})
	if err != nil {
		return plan.Plan{}, err
	}
	if o.Tenant != nil {
		have, err := a.secretsOf(o.Tenant.ID)
		if err != nil {
			return plan.Plan{}, err
		}
		o.SameSecrets = func(want map[string][]byte) bool { return secrets.Equal(have, want) }
	}
	return plan.Make(d, o, plan.Options{})
}

// applyStep does one step of a plan.
func (a *Agent) applyStep(ctx context.Context, s plan.Step, progress func(mvm.Progress)) (err error) {
	switch s.Kind {
	case plan.CreateTenant:
		_, err = a.CreateTenant(ctx, *s.Tenant)
	case plan.UpdateTenant:
		_, err = a.UpdateTenant(ctx, s.Target.Tenant, *s.Update)
	case plan.SetSecrets:
		defer a.admin.lock(s.Target.Tenant)()
		_, err = a.changeSecrets(ctx, s.Target.Tenant, func(map[string][]byte) map[string][]byte { return s.Secrets })
	case plan.CreatePool:
		_, err = a.CreatePool(ctx, s.Target.Tenant, *s.Pool)
	case plan.UpdatePool:
		_, err = a.UpdatePool(ctx, s.Target.Tenant, s.Target.Pool, mvm.PoolUpdate{Spec: s.Pool})
	case plan.DestroyPool:
		err = a.DestroyPool(ctx, s.Target.Tenant, s.Target.Pool, progress)
	case plan.BuildPool:
		_, err = a.BuildPool(ctx, s.Target.Tenant, s.Target.Pool, progress)
	case plan.Operate:
		err = a.applyOp(ctx, s.Target.Instance, s.Op, s.Reason, progress)
	case plan.CreateInstance:
		err = a.applyCreate(ctx, s, progress)
	default:
		err = mvm.Errorf(mvm.KindInternal, "plan step %q is unknown", s.Kind)
	}
	return err
}

func (a *Agent) applyOp(ctx context.Context, id string, op mvm.OpKind, why string, progress func(mvm.Progress)) error {
	_, err := a.submit(ctx, id, request{op: op, by: mvm.AskerFrom(ctx), why: why}, progress)
	return err
}

// applyCreate makes an instance and walks it to the state that the step names.
func (a *Agent) applyCreate(ctx context.Context, s plan.Step, progress func(mvm.Progress)) error {
	i, err := a.CreateInstance(ctx, s.Target.Tenant, s.Target.Pool, "")
	if err != nil {
		return err
	}
	ops := map[mvm.State][]mvm.OpKind{
		mvm.StateRunning:  {mvm.OpStart},
		mvm.StateWarm:     {mvm.OpStart, mvm.OpWarm},
		mvm.StateSleeping: {mvm.OpStart, mvm.OpSleep},
	}[s.To]
	for _, op := range ops {
		if err := a.applyOp(ctx, i.ID, op, s.Reason, progress); err != nil {
			return err
		}
	}
	return nil
}
