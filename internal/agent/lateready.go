package agent

import (
	"context"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// lateReady has it on record when the services of an instance are ready after all for
// which nobody waits any more: a wait for them has failed.
func (a *Agent) lateReady(i mvm.Instance) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	release, err := acquireSlot(a.ctx, a.idle.slots)
	if err != nil {
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(a.ctx, min(idleAnswer, a.opt.Timeouts.Call))
	defer cancel()
	if st, err := a.status(ctx, i.ID); err != nil || !st.Ready {
		return
	}
	err = a.store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err != nil || now.Op != nil || !now.Changed.Equal(i.Changed) {
			return err
		}
		now.Ready, now.Problem = true, ""
		return tx.PutInstance(now)
	})
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		a.log.Error("record that services are ready", "instance", i.ID, "error", err)
		return
	}
	a.log.Info("services are ready after all", "instance", i.ID)
	a.reconciler.poke(i.Tenant) // others of its pool waited for it
}

// status asks a guest how its services are.
func (a *Agent) status(ctx context.Context, id string) (guestproto.Status, error) {
	resp, err := a.ask(ctx, id, guestproto.Request{Status: true})
	if err != nil {
		return guestproto.Status{}, err
	}
	if resp.Status == nil {
		return guestproto.Status{}, mvm.Errorf(mvm.KindUnavailable, "ask for status: the guest gave another answer")
	}
	return *resp.Status, nil
}
