package agent

import (
	"context"
	"errors"
	"maps"

	"mvm"
	"mvm/internal/store"
)

// hold makes the records agree with the state that is kept, as often as the agent
// looks at everything. Somebody who changed them meanwhile has not the last word.
// told has what the log says already, by tenant.
func (r *reconciler) hold(told map[string]string) {
	faults, err := r.a.holdKept(asReconcile(r.a.ctx))
	if r.a.ctx.Err() != nil {
		return
	}
	if err == nil {
		err = r.a.noteFaults(faults)
	}
	if err != nil {
		r.a.log.Error("hold the host to its desired state", "error", err)
	}
	for t, err := range faults {
		if text := withoutLog(err.Error()); told[t] != text {
			told[t] = text
			r.a.log.Error("tenant is not held to the desired state; the others are", "tenant", t, "error", text)
		}
	}
	maps.DeleteFunc(told, func(t, _ string) bool { return err == nil && faults[t] == nil })
}

// holdKept reads what is kept once nobody can keep another: with one that was overtaken
// it would undo what the newer made. What keeps one tenant from what the state says
// keeps no other: faults are returned by tenant.
func (a *Agent) holdKept(ctx context.Context) (map[string]error, error) {
	defer a.states.Lock("state")()
	k, err := a.keptState()
	if err != nil || k == nil {
		return nil, err
	}
	h, err := a.planHost(ctx, k.State, false)
	if err != nil {
		return nil, err
	}
	_, faults := a.applyHost(ctx, h, func(p mvm.Progress) { a.log.Info("held to the desired state", "target", p.Target, "step", p.Text) })
	maps.Copy(faults, h.trouble)
	return faults, nil
}

// noteFaults has each tenant's record say what keeps it from the state that is kept.
func (a *Agent) noteFaults(faults map[string]error) error {
	all, err := a.Tenants(a.ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range all {
		text := ""
		if err := faults[t.ID]; err != nil {
			text = recordable(err)
		}
		if t.Problem == text {
			continue
		}
		errs = append(errs, a.store.Update(func(tx *store.Tx) error {
			now, err := tx.Tenant(t.ID)
			if mvm.IsKind(err, mvm.KindNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			now.Problem = text
			return tx.PutTenant(now)
		}))
	}
	return errors.Join(errs...)
}

// forget ends that the host is held to a state. Once it returns nothing more is done
// for that state.
func (a *Agent) forget(ctx context.Context) error {
	defer a.states.Lock("state")()
	k, err := a.heldState()
	if err != nil {
		k = &mvm.HeldState{} // what can't be read can be forgotten
	}
	if k == nil {
		return nil
	}
	err = a.store.Update(func(tx *store.Tx) error {
		if err := tx.PutMeta(metaKept, ""); err != nil {
			return err
		}
		return a.journal.Append(ctx, tx, mvm.Event{Action: mvm.StateForgotten, Detail: k.Digest})
	})
	if err != nil {
		return err
	}
	return a.noteFaults(nil)
}
