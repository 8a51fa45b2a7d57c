package declare

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// Apply makes the tenant's record and its pools say what
// the deployment says, and then, but for NoWait, waits while reconcile makes it so. When ctx ends
// between two changes the next run takes up what is left; once all is on record the
// agent goes on by itself.
func (c *Declarer) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if err := errors.Join(d.Validate(), checkManifest(opts.Manifest)); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(mvm.Progress) {}
	}
	if opts.Dry {
		p, err := c.planFor(d, plan.Options{Force: opts.Force}, opts.Check)
		if err != nil {
			return nil, err
		}
		tellNotes(p, d.Tenant.ID, progress)
		if err := c.tellProblems(ctx, d.Tenant.ID, progress); err != nil {
			return nil, err
		}
		return p.Display(), tellAlone(p.Steps, p.Alone, progress)
	}
	done, err := c.applySpecs(ctx, d, applied{plan: plan.Options{Force: opts.Force}, check: opts.Check, from: from("manifest", opts.Manifest)}, progress)
	if err != nil {
		return done, err
	}
	c.opt.Deliver.Owed(ctx, []string{d.Tenant.ID})
	if opts.NoWait {
		return done, nil
	}
	more, err := c.opt.Reconcile.Converge(ctx, d.Tenant.ID, progress)
	return append(done, more...), err
}

// applied says how a deployment is put on record.
type applied struct {
	plan  plan.Options
	check applyCheck
	from  string // what it was read from, for the audit log
}

// manifestRE is a digest as clients may send it: it goes into the audit log.
var manifestRE = regexp.MustCompile(`^(sha256:[0-9a-f]{64})?$`)

func checkManifest(digest string) error {
	if !manifestRE.MatchString(digest) {
		return mvm.Errorf(mvm.KindInvalid, "manifest %.80q is no digest: want sha256: and 64 hex digits", digest)
	}
	return nil
}

// from names what was applied, for the audit log.
func from(what, digest string) string {
	if digest == "" {
		return ""
	}
	return what + " " + digest
}

// recordApply records what a deployment is about to change, in names alone.
func (c *Declarer) recordApply(ctx context.Context, tenant, from string, p plan.Plan) error {
	var parts []string
	for _, s := range p.Steps {
		if s.OfRecord() {
			shown := s.Display()
			parts = append(parts, shown.Action+" "+shown.Target+": "+shown.Reason)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return c.opt.Store.Update(func(tx *store.Tx) error {
		return c.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.DeploymentApplied, Tenant: tenant, Why: from, Detail: display.ClipTo(maxApplyDetail, strings.Join(parts, "; "))})
	})
}

// maxApplyDetail bounds what is recorded of one deployment, in bytes.
const maxApplyDetail = 2000

// applySpecs puts on record what the deployment says of tenant, secrets and pools.
func (c *Declarer) applySpecs(ctx context.Context, d mvm.Deployment, how applied, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	defer c.opt.Reconcile.Pause(d.Tenant.ID)()
	p, err := c.planFor(d, how.plan, how.check)
	if err != nil {
		return nil, err
	}
	if err := c.recordApply(ctx, d.Tenant.ID, how.from, p); err != nil {
		return nil, err
	}
	if how.plan.Force {
		if err := c.opt.Records.TakeOver(ctx, mvm.Address{Tenant: d.Tenant.ID}); err != nil {
			return nil, err
		}
	}
	var done []mvm.PlanStep
	for _, s := range p.Steps {
		if !s.OfRecord() {
			continue
		}
		shown := s.Display()
		if ctx.Err() != nil {
			return done, mvm.Errorf(mvm.KindCanceled, "apply %s: %w", d.Tenant.ID, context.Cause(ctx)).
				WithFix("run it again to continue")
		}
		if err := c.opt.Seam("apply."+string(s.Kind)+":before", d.Tenant.ID); err != nil {
			return done, err
		}
		progress(mvm.Progress{Target: shown.Target, Text: shown.Action + ": " + shown.Reason})
		if err := c.applyStep(ctx, s, progress); err != nil {
			return done, mvm.Errorf(mvm.KindOf(err), "apply %s: %s %s: %w", d.Tenant.ID, shown.Action, shown.Target, err)
		}
		done = append(done, shown)
	}
	return done, nil
}

// applyCheck is mvm.ApplyOptions.Check; nil allows everything.
type applyCheck = func(have *mvm.Tenant, pools []mvm.Pool) error

// planFor looks at the tenant as it is and plans from there, if check allows that.
func (c *Declarer) planFor(d mvm.Deployment, opts plan.Options, check applyCheck) (plan.Plan, error) {
	o, err := c.opt.Reconcile.Observe(d.Tenant.ID)
	if err != nil {
		return plan.Plan{}, err
	}
	if check != nil {
		if err := check(o.Tenant, o.Pools); err != nil {
			return plan.Plan{}, err
		}
	}
	if err := checkExposed(d, o.Pools); err != nil {
		return plan.Plan{}, err
	}
	if o.Tenant != nil {
		if o.Secrets, err = c.opt.Records.Secrets(o.Tenant.ID); err != nil {
			return plan.Plan{}, err
		}
	}
	return plan.Make(d, o, opts)
}

// applyStep does one step of a plan that is of a record.
func (c *Declarer) applyStep(ctx context.Context, s plan.Step, progress func(mvm.Progress)) (err error) {
	r := c.opt.Records
	switch s.Kind {
	case plan.CreateTenant:
		_, err = r.CreateTenant(ctx, *s.Tenant)
	case plan.UpdateTenant:
		_, err = r.UpdateTenant(ctx, s.Target.Tenant, *s.Update)
	case plan.SetSecrets:
		err = r.ReplaceSecrets(ctx, s.Target.Tenant, s.Secrets)
	case plan.CreatePool:
		err = r.CreatePool(ctx, s.Target.Tenant, *s.Pool)
	case plan.UpdatePool:
		err = r.UpdatePoolLater(ctx, s.Target, *s.Pool, *s.Was)
	case plan.DestroyPool:
		if err := r.StopAll(ctx, s.Target, progress); err != nil {
			return err
		}
		err = r.DestroyPool(ctx, s.Target.Tenant, s.Target.Pool, progress)
	default:
		err = mvm.Errorf(mvm.KindInternal, "plan step %q is not of a record", s.Kind)
	}
	return err
}

// checkExposed refuses what the deployment exposes and the pools do not yet, before
// anything changes.
func checkExposed(d mvm.Deployment, have []mvm.Pool) error {
	for _, spec := range d.Pools {
		var was *mvm.PoolSpec
		if n := slices.IndexFunc(have, func(p mvm.Pool) bool { return p.Spec.ID == spec.ID }); n >= 0 {
			was = &have[n].Spec
		}
		if err := spec.CheckExposed(was); err != nil {
			return err
		}
	}
	return nil
}
