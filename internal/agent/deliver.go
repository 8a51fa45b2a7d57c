package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// deliverEvery is how often guests that did not take a change are tried again.
const deliverEvery = 5 * time.Second

// pushConfig gives a running guest its configuration anew, without clock and entropy.
// One that does not take it gets it later: see keepDelivered.
func (a *Agent) pushConfig(ctx context.Context, i mvm.Instance) error {
	defer a.pushing.Lock(i.ID)() // so that what arrives last is the newest
	a.pending.Set(i.ID, false)   // before the configuration is read: a change after that sets it again
	err := a.tryPush(ctx, i)
	if err != nil {
		a.pending.Set(i.ID, true) // it is told again
	}
	return err
}

func (a *Agent) tryPush(ctx context.Context, i mvm.Instance) error {
	cfg, err := a.guestConfig(i, "update")
	if err != nil {
		return err
	}
	// A guest that does not answer must not hold up those after it for as long as the
	// asker would wait.
	ctx, cancel := context.WithTimeout(ctx, a.opt.Timeouts.Call)
	defer cancel()
	resp, err := a.ask(ctx, i.ID, guestproto.Request{Configure: &cfg})
	if err != nil {
		return err
	}
	if resp.ConfigureAck == nil || !resp.ConfigureAck.Success {
		return mvm.Errorf(mvm.KindUnavailable, "update configuration of %s: the guest did not take it", i.ID)
	}
	if resp.ConfigureAck.Settling {
		defer a.noteTold(i.ID)
	}
	return a.store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		now.SecretsGeneration = cfg.Generation
		return tx.PutInstance(now)
	})
}

// deliverers bounds the guests that get a change at the same time.
const deliverers = 16

// receivers are the running instances of the tenant.
func (a *Agent) receivers(ctx context.Context, tenant string) ([]mvm.Instance, error) {
	all, err := a.Instances(ctx, mvm.Address{Tenant: tenant})
	return slices.DeleteFunc(all, func(i mvm.Instance) bool { return i.State != mvm.StateRunning || a.liveOf(i.ID) == nil }), err
}

// deliver pushes the configuration to every running instance of the tenant, so that one
// that is mute costs no other its time.
func (a *Agent) deliver(ctx context.Context, tenant string) error {
	instances, err := a.receivers(ctx, tenant)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	wait.Each(instances, deliverers, func(i mvm.Instance) {
		if err := a.pushConfig(ctx, i); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	})
	if len(errs) > 0 {
		return mvm.Errorf(mvm.KindUnavailable, "stored, but %d running guests did not take it: %w", len(errs), errors.Join(errs...)).
			WithFix("the agent tries again by itself; they get it at their next wake at the latest")
	}
	return nil
}

// deliverLater leaves a change of the tenant, or of all where it is "", to keepDelivered.
func (a *Agent) deliverLater(ctx context.Context, tenant string) error {
	instances, err := a.receivers(ctx, tenant)
	for _, i := range instances {
		a.pending.Set(i.ID, true)
	}
	return err
}

// deliverOwed gives the tenants' guests now what was left for later. What they do not
// take stays so.
func (a *Agent) deliverOwed(ctx context.Context, tenants []string) {
	owed := a.pending.All()
	wait.Each(tenants, settlers, func(tenant string) {
		instances, err := a.receivers(ctx, tenant)
		instances = slices.DeleteFunc(instances, func(i mvm.Instance) bool { return !slices.Contains(owed, i.ID) })
		if len(instances) > 0 {
			err = a.deliver(ctx, tenant)
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("deliver change", "tenant", tenant, "error", err)
		}
	})
}

// keepDelivered tries the guests again that did not take a change, and asks gateways that
// may have missed the end of an instance, for as long as the agent runs.
func (a *Agent) keepDelivered() {
	a.doubtPeers()
	redeliver := func() {
		wait.Each(a.unreconciled.All(), deliverers, a.checkPeers)
		wait.Each(a.pending.All(), deliverers, a.redeliver)
	}
	redeliver()
	wait.Every(a.ctx, deliverEvery, redeliver)
}

// redeliver tries one guest. One that does not run gets its configuration by the gate.
func (a *Agent) redeliver(id string) {
	i, err := a.Instance(a.ctx, mvm.Address{Instance: id})
	if err != nil || i.State != mvm.StateRunning || a.liveOf(id) == nil {
		a.pending.Set(id, false)
		return
	}
	if i.Op != nil { // its operation may have paused it, and ends with a gate
		return
	}
	if err := a.pushConfig(a.ctx, i); err != nil && a.ctx.Err() == nil {
		a.log.Warn("deliver configuration", "instance", id, "error", err)
	}
}
