package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// deliverEvery is how often guests that did not take a change are tried again.
const deliverEvery = 5 * time.Second

// pending are the instances whose guests do not have their present configuration.
type pending struct {
	mu sync.Mutex
	by map[string]bool
}

func (p *pending) set(id string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]bool{}
	}
	if on {
		p.by[id] = true
	} else {
		delete(p.by, id)
	}
}

func (p *pending) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.by))
}

// pushConfig gives a running guest its configuration anew, without clock and entropy.
// One that does not take it gets it later: see keepDelivered.
func (a *Agent) pushConfig(ctx context.Context, i mvm.Instance) error {
	defer a.pushing.lock(i.ID)() // so that what arrives last is the newest
	err := a.tryPush(ctx, i)
	a.pending.set(i.ID, err != nil)
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

// deliver pushes the configuration to every running instance of the tenant.
func (a *Agent) deliver(ctx context.Context, tenant string) error {
	instances, err := a.Instances(ctx, mvm.Address{Tenant: tenant})
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range instances {
		if i.State != mvm.StateRunning || a.liveOf(i.ID) == nil {
			continue
		}
		if err := a.pushConfig(ctx, i); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return mvm.Errorf(mvm.KindUnavailable, "stored, but %d running guests did not take it: %w", len(errs), errors.Join(errs...)).
			WithFix("the agent tries again by itself; they get it at their next wake at the latest")
	}
	return nil
}

// keepDelivered tries the guests again that did not take a change, for as long as
// the agent runs.
func (a *Agent) keepDelivered() {
	redeliver := func() {
		for _, id := range a.pending.all() {
			a.redeliver(id)
		}
	}
	redeliver()
	a.every(deliverEvery, redeliver)
}

// redeliver tries one guest. One that does not run gets its configuration by the gate.
func (a *Agent) redeliver(id string) {
	i, err := a.Instance(a.ctx, mvm.Address{Instance: id})
	if err != nil || i.State != mvm.StateRunning || a.liveOf(id) == nil {
		a.pending.set(id, false)
		return
	}
	if i.Op != nil { // its operation may have paused it, and ends with a gate
		return
	}
	if err := a.pushConfig(a.ctx, i); err != nil && a.ctx.Err() == nil {
		a.log.Warn("deliver configuration", "instance", id, "error", err)
	}
}
