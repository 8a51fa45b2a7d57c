package health

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Look finds out what is to be known of an instance and is not: services may be ready that
// nobody waits for any more, or nothing is known of it at all.
func (t *Table) Look(ctx context.Context, i mvm.Instance) {
	t.lateReady(ctx, i)
	t.askHealth(ctx, i)
}

// Reported takes in what a guest says of its services by itself.
func (t *Table) Reported(i mvm.Instance, st guestproto.Status) {
	waited := t.notReady(i)
	t.saw(i, st)
	if st.Ready {
		t.readyAfterAll(i, waited)
	}
}

// notReady reports that the services of an instance are known not to be ready in this boot.
func (t *Table) notReady(i mvm.Instance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.by[i.ID]
	return ok && h.boot == i.DiskGeneration && h.is.Status != "" && h.is.Status != mvm.HealthReady
}

// lateReady looks whether the services of an instance are ready after all for which nobody
// waits any more. A guest tells of it too, unless it is of an older mvm.
func (t *Table) lateReady(ctx context.Context, i mvm.Instance) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	waited := t.notReady(i)
	if st, err := t.statusWhileIdle(ctx, i); err == nil && st.Ready {
		t.readyAfterAll(i, waited)
	}
}

// statusWhileIdle is Status within the bounds of the idle loop's questions.
func (t *Table) statusWhileIdle(ctx context.Context, i mvm.Instance) (st guestproto.Status, err error) {
	err = t.opt.Idle.Question(ctx, func(ctx context.Context) error {
		st, err = t.Status(ctx, i)
		return err
	})
	return st, err
}

// Status asks the instance's guest how its services are.
func (t *Table) Status(ctx context.Context, i mvm.Instance) (guestproto.Status, error) {
	resp, err := t.opt.Guests.Ask(ctx, i.ID, guestproto.Request{Status: true})
	if err != nil {
		return guestproto.Status{}, err
	}
	if resp.Status == nil {
		return guestproto.Status{}, mvm.Errorf(mvm.KindUnavailable, "ask for status: unexpected answer from the guest")
	}
	t.saw(i, *resp.Status)
	return *resp.Status, nil
}

// askHealth asks a guest of which nothing is known how its services are: after a restart
// of the agent.
func (t *Table) askHealth(ctx context.Context, i mvm.Instance) {
	if i.State != mvm.StateRunning || !i.Ready || !t.unknown(i) {
		return
	}
	_, err := t.statusWhileIdle(ctx, i)
	if ctx.Err() == nil {
		t.asked(i, err == nil)
	}
}

// readyAfterAll has it on record that the services of an instance are ready for which
// nobody waits any more: a wait for them has failed. waited: they are known not to have been
// ready before, so that it is known how long that took.
func (t *Table) readyAfterAll(i mvm.Instance, waited bool) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	recorded := false
	err := t.opt.Store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if recorded = err == nil && now.Op == nil && now.Changed.Equal(i.Changed); !recorded {
			return err
		}
		now.Ready, now.Problem = true, ""
		if waited {
			err = tx.EndBoot(&now, time.Now())
		}
		return errors.Join(err, tx.PutInstance(now))
	})
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		t.opt.Log.Error("record that services are ready", "instance", i.ID, "error", err)
		return
	}
	if !recorded { // an operation is under way, and looks itself
		return
	}
	t.opt.Log.Info("services are ready after all", "instance", i.ID)
	t.opt.Reconcile.Poke(i.Tenant) // others of its pool waited for it
}
