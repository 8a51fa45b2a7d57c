package agent

import (
	"context"
	"strings"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// manualOverride is how long reconcile leaves an instance alone after a person
// acted on it (formats.md section 2).
const manualOverride = 10 * time.Minute

// override keeps automatic changes away from the instance for a while.
func (a *Agent) override(id string) error {
	return a.store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		i.ManualOverrideUntil = time.Now().Add(manualOverride)
		return tx.PutInstance(i)
	})
}

// takeOver ends the overrides of all instances below the address.
func (a *Agent) takeOver(ctx context.Context, below mvm.Address) error {
	taken := false
	err := a.store.Update(func(tx *store.Tx) (err error) {
		taken, err = a.endOverrides(tx, ctx, below)
		return err
	})
	if taken {
		a.reconciler.changed(below.Tenant, below.Pool)
	}
	return err
}

// takeOverAll is takeOver for tenants.
func (a *Agent) takeOverAll(ctx context.Context, tenants []string) error {
	for _, t := range tenants {
		if err := a.takeOver(ctx, mvm.Address{Tenant: t}); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) endOverrides(tx *store.Tx, ctx context.Context, below mvm.Address) (taken bool, err error) {
	all, err := tx.Instances(below.Tenant, below.Pool)
	for _, i := range all {
		if err != nil {
			break
		}
		if !i.ManualOverrideUntil.After(time.Now()) {
			continue
		}
		until := i.ManualOverrideUntil.UTC().Format(time.RFC3339)
		taken, i.ManualOverrideUntil = true, time.Time{}
		if err = tx.PutInstance(i); err == nil {
			err = a.journal.Append(ctx, tx, mvm.Event{Action: mvm.OverrideEnded, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, Detail: "it held until " + until})
		}
	}
	return taken, err
}

// aloneError says which instances are left alone, and what that keeps back; nil where
// there are none.
func aloneError(alone []plan.Alone) error {
	if len(alone) == 0 {
		return nil
	}
	texts := make([]string, len(alone))
	for n, i := range alone {
		texts[n] = i.String()
	}
	return mvm.Errorf(mvm.KindLeftAlone, "not all that is asked for is done: %s", strings.Join(texts, "; ")).
		WithFix("wait until then, or take over with --force")
}

// tellAlone ends a dry run: where it has no steps, what is left alone is its error.
func tellAlone(steps []plan.Step, alone []plan.Alone, progress func(mvm.Progress)) error {
	if len(steps) == 0 {
		return aloneError(alone)
	}
	for _, i := range alone {
		progress(mvm.Progress{Target: i.Target.Tenant, Text: i.String()})
	}
	return nil
}
