package declare

import (
	"context"
	"errors"
	"maps"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/store"
)

// Hold makes the records agree with the state that is kept, as often as the agent
// looks at everything. Somebody who changed them meanwhile has not the last word.
// One goroutine at a time calls it.
func (c *Declarer) Hold(ctx context.Context) {
	faults, err := c.holdKept(mvm.WithAsker(ctx, mvm.Asker{Kind: mvm.AskerReconcile}))
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = c.noteFaults(ctx, faults)
	}
	if err != nil {
		c.opt.Log.Error("hold the host to its desired state", "error", err)
	}
	for t, err := range faults {
		if text := display.WithoutLog(err.Error()); c.told[t] != text {
			c.told[t] = text
			c.opt.Log.Error("tenant is not held to the desired state; the others are", "tenant", t, "error", text)
		}
	}
	maps.DeleteFunc(c.told, func(t, _ string) bool { return err == nil && faults[t] == nil })
}

// holdKept reads what is kept once nobody can keep another: with one that was overtaken
// it would undo what the newer made. What keeps one tenant from what the state says
// keeps no other: faults are returned by tenant.
func (c *Declarer) holdKept(ctx context.Context) (map[string]error, error) {
	defer c.states.Lock("state")()
	k, err := c.keptState()
	if err != nil || k == nil {
		return nil, err
	}
	h, err := c.planHost(ctx, k.State, false)
	if err != nil {
		return nil, err
	}
	_, faults := c.applyHost(ctx, h, func(p mvm.Progress) { c.opt.Log.Info("held to the desired state", "target", p.Target, "step", p.Text) })
	maps.Copy(faults, h.trouble)
	return faults, nil
}

// noteFaults has each tenant's record say what keeps it from the state that is kept.
func (c *Declarer) noteFaults(ctx context.Context, faults map[string]error) error {
	all, err := c.opt.Records.Tenants(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range all {
		text := ""
		if err := faults[t.ID]; err != nil {
			text = display.Recordable(err)
		}
		if t.Problem == text {
			continue
		}
		errs = append(errs, c.opt.Store.Update(func(tx *store.Tx) error {
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
func (c *Declarer) forget(ctx context.Context) error {
	defer c.states.Lock("state")()
	k, err := c.Held()
	if err != nil {
		k = &mvm.HeldState{} // what can't be read can be forgotten
	}
	if k == nil {
		return nil
	}
	err = c.opt.Store.Update(func(tx *store.Tx) error {
		if err := tx.PutMeta(metaKept, ""); err != nil {
			return err
		}
		return c.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.StateForgotten, Detail: k.Digest})
	})
	if err != nil {
		return err
	}
	return c.noteFaults(ctx, nil)
}
