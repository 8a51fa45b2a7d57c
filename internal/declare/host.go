package declare

import (
	"context"
	"errors"
	"maps"
	"slices"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// hostPlan is what there is to do for a desired state.
type hostPlan struct {
	doc     desired.Document
	gone    []string // tenants that are destroyed
	tenants []tenantPlan
	notes   []mvm.Progress
	force   bool         // instances that a person changed are taken over
	alone   []plan.Alone // what keeps tenants from being destroyed
	// trouble is, by tenant, why it can't be made what the state says.
	trouble map[string]error
}

type tenantPlan struct {
	d mvm.Deployment
	p plan.Plan
}

// planHost checks the whole state against the host and says what there is to do, for
// each tenant that it can be done for. Nothing is changed.
func (c *Declarer) planHost(ctx context.Context, doc desired.Document, force bool) (hostPlan, error) {
	h := hostPlan{doc: doc, force: force, trouble: map[string]error{}}
	if err := c.planGone(ctx, &h); err != nil {
		return h, err
	}
	if err := errors.Join(c.checkSecrets(&h), c.checkNew(ctx, &h)); err != nil {
		return h, err
	}
	for _, d := range doc.Deployments() {
		if h.trouble[d.Tenant.ID] != nil {
			continue
		}
		o, err := c.opt.Reconcile.Observe(d.Tenant.ID)
		if err != nil {
			return h, err
		}
		if err := checkExposed(d, o.Pools); err != nil {
			return h, err
		}
		p, err := plan.Make(d, o, h.options())
		if err != nil {
			h.trouble[d.Tenant.ID] = err
			continue
		}
		h.tenants = append(h.tenants, tenantPlan{d, p})
	}
	return h, nil
}

// planGone finds the tenants that are destroyed.
func (c *Declarer) planGone(ctx context.Context, h *hostPlan) error {
	have, err := c.opt.Records.Tenants(ctx)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, t := range h.doc.Tenants {
		named[t.TenantID] = true
	}
	for _, t := range have {
		if named[t.ID] && t.Destroying {
			h.trouble[t.ID] = mvm.Errorf(mvm.KindState, "tenant %s is being destroyed", t.ID).WithFix("try again when it is destroyed")
		}
		if named[t.ID] || t.Destroying || !h.doc.PruneUnknownTenants {
			continue
		}
		why, alone, err := c.spared(t, h.force)
		if err != nil {
			return err
		}
		h.alone = append(h.alone, alone...)
		if why != "" {
			h.note(t.ID, "it is not in the desired state, and stays: "+why)
			continue
		}
		h.gone = append(h.gone, t.ID)
	}
	return nil
}

// refused is all that keeps tenants from what the state says: then none of it is taken.
func (h *hostPlan) refused() error { return joined(h.trouble) }

// spared is why the tenant is not destroyed though it is not named; empty: it is. alone
// are its instances that a person changed, where they are why.
func (c *Declarer) spared(t mvm.Tenant, force bool) (why string, alone []plan.Alone, err error) {
	if t.Pinned {
		return "it is pinned", nil, nil
	}
	o, err := c.opt.Reconcile.Observe(t.ID)
	if err != nil {
		return "", nil, err
	}
	if force {
		o = o.TakenOver()
	}
	for _, p := range o.Pools {
		if p.Spec.Pinned || p.Spec.Critical { // it stays for longer than any override
			return "pool " + p.Address().String() + " stays: " + plan.Spared(p, o), nil, nil
		}
	}
	for _, p := range o.Pools {
		if stays := plan.Spared(p, o); stays != "" {
			why = "pool " + p.Address().String() + " stays: " + stays
			alone = append(alone, plan.Held(p, o, plan.Step{Kind: plan.DestroyPool, Target: mvm.Address{Tenant: t.ID}, Reason: "the desired state does not name it"})...)
		}
	}
	return why, alone, nil
}

// options are those of every tenant's plan.
func (h hostPlan) options() plan.Options {
	return plan.Options{Prune: h.doc.PruneUnknownPools, Force: h.force}
}

// unpruned are the instances that keep tenants and pools from being destroyed: no other
// plan finds them, since the record does not say that these should go.
func (h hostPlan) unpruned() []plan.Alone {
	out := slices.Clone(h.alone)
	for _, t := range h.tenants {
		for _, i := range t.p.Alone {
			if i.Step.Kind == plan.DestroyPool {
				out = append(out, i)
			}
		}
	}
	return out
}

// tellAlone ends a dry run.
func (h hostPlan) tellAlone(progress func(mvm.Progress)) error {
	alone := slices.Clone(h.alone)
	var steps []plan.Step
	for _, t := range h.tenants {
		alone, steps = append(alone, t.p.Alone...), append(steps, t.p.Steps...)
	}
	if len(h.gone) > 0 {
		steps = append(steps, plan.Step{})
	}
	return tellAlone(steps, alone, progress)
}

func (h *hostPlan) note(tenant, text string) {
	h.notes = append(h.notes, mvm.Progress{Target: tenant, Text: text})
}

// checkSecrets finds the tenants that have other secrets than those of the state. One
// that has none yet is told of: they come by another way than the state.
func (c *Declarer) checkSecrets(h *hostPlan) error {
	for _, t := range h.doc.Tenants {
		if t.SecretsHash == "" || h.trouble[t.TenantID] != nil {
			continue
		}
		var have mvm.Tenant
		var sealed []byte
		err := c.opt.Store.View(func(tx *store.Tx) (err error) {
			have, err = tx.Tenant(t.TenantID)
			sealed = tx.Secrets(t.TenantID)
			return err
		})
		if mvm.IsKind(err, mvm.KindNotFound) || err == nil && have.SecretsGeneration == 0 {
			h.note(t.TenantID, "its secrets are missing: set them with `mvm tenant secrets set`")
			continue
		}
		if err != nil {
			return err
		}
		switch hash, err := c.opt.Records.SecretsHash(have, sealed); {
		case err != nil:
			h.trouble[t.TenantID] = err
		case hash != t.SecretsHash:
			h.trouble[t.TenantID] = mvm.Errorf(mvm.KindState, "desired state: the secrets of tenant %s do not match secrets_hash", t.TenantID).
				WithFix("set them with `mvm tenant secrets set`, or take the hash from `mvm agent desired`, or leave it out")
		}
	}
	return nil
}

// checkNew tries whether the new tenants can have the networks that they ask for, once
// those to be destroyed are gone.
func (c *Declarer) checkNew(ctx context.Context, h *hostPlan) error {
	var specs []mvm.TenantSpec
	for _, d := range h.doc.Deployments() {
		specs = append(specs, d.Tenant)
	}
	faults, err := c.opt.Records.TryTenants(ctx, specs, h.gone)
	for t, err := range faults {
		h.trouble[t] = mvm.Errorf(mvm.KindOf(err), "desired state: tenant %s: %w", t, err)
	}
	return err
}

// display is every step as people see it: tenants that go first.
func (h hostPlan) display() (out []mvm.PlanStep) {
	for _, t := range h.gone {
		out = append(out, destroyStep(t))
	}
	for _, t := range h.tenants {
		out = append(out, t.p.Display()...)
	}
	return out
}

func destroyStep(tenant string) mvm.PlanStep {
	return mvm.PlanStep{Action: "destroy", Target: tenant, Reason: "the desired state does not name it"}
}

func (h hostPlan) tell(progress func(mvm.Progress)) {
	for _, n := range h.notes {
		progress(n)
	}
	for _, t := range h.tenants {
		tellNotes(t.p, t.d.Tenant.ID, progress)
	}
}

// names are the tenants that the state names.
func (h hostPlan) names() (out []string) {
	for _, t := range h.tenants {
		out = append(out, t.d.Tenant.ID)
	}
	return out
}

// applyHost puts the state on record: what goes first, then each tenant. A fault of
// one tenant keeps no other from its own: they are returned by tenant.
func (c *Declarer) applyHost(ctx context.Context, h hostPlan, progress func(mvm.Progress)) (done []mvm.PlanStep, faults map[string]error) {
	faults = map[string]error{}
	if h.force {
		for _, t := range h.names() {
			if err := c.opt.Records.TakeOver(ctx, mvm.Address{Tenant: t}); err != nil {
				faults[t] = err
			}
		}
	}
	for _, t := range h.gone {
		s := destroyStep(t)
		progress(mvm.Progress{Target: s.Target, Text: s.Action + ": " + s.Reason})
		if err := c.pruneTenant(ctx, t, progress); err != nil {
			faults[t] = mvm.Errorf(mvm.KindOf(err), "prune tenant %s: %w", t, err)
			continue
		}
		done = append(done, s)
	}
	for _, t := range h.tenants {
		if ctx.Err() != nil {
			faults[t.d.Tenant.ID] = mvm.Errorf(mvm.KindCanceled, "reconcile: %w", context.Cause(ctx)).WithFix("run it again to continue")
			break
		}
		if !slices.ContainsFunc(t.p.Steps, plan.Step.OfRecord) {
			continue
		}
		steps, err := c.applySpecs(ctx, t.d, applied{plan: h.options(), from: from("desired state", stateDigest(h.doc))}, progress)
		done = append(done, steps...)
		if err != nil {
			faults[t.d.Tenant.ID] = err
		}
	}
	return done, faults
}

// joined is one error of all, in the order of the tenants' names.
func joined(faults map[string]error) error {
	var errs []error
	for _, t := range slices.Sorted(maps.Keys(faults)) {
		errs = append(errs, faults[t])
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// pruneTenant destroys a tenant whose VMs are stopped before: first what lets others
// in, then the rest.
func (c *Declarer) pruneTenant(ctx context.Context, tenant string, progress func(mvm.Progress)) error {
	if err := c.opt.Records.StopAll(ctx, mvm.Address{Tenant: tenant}, progress); err != nil {
		return err
	}
	return c.opt.Records.DestroyTenant(ctx, tenant, progress)
}
