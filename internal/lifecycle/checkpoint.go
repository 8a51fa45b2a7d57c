package lifecycle

import (
	"context"
	"slices"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// checkpoint has the guest's integrations saved. A critical one that fails keeps
// the instance awake, on record; any other is recorded and the sleep goes on.
func (o *operation) checkpoint(ctx context.Context) error {
	list := o.pool.Spec.Integrations
	if len(list) == 0 {
		return nil
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	failed, why := o.askCheckpoint(ctx, names)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o.l.opt.Health.NoteIntegrations(ctx, o.inst)
	for _, i := range list {
		if i.Critical && slices.Contains(failed, i.Name) && !o.job.req.Force {
			o.deferred("critical integration " + i.Name + " could not be checkpointed: " + why)
			return mvm.Errorf(mvm.KindPolicy, "checkpoint integration %q failed and it is critical: the instance stays awake: %s", i.Name, why).
				WithFix("see `mvm logs %s`; --force puts it to sleep anyway", o.inst.ID)
		}
	}
	if len(failed) > 0 {
		o.log.Warn("checkpoint failed", "integrations", failed, "why", why)
	}
	return nil
}

// askCheckpoint returns those of the names that were not checkpointed, and why.
func (o *operation) askCheckpoint(ctx context.Context, names []string) (failed []string, why string) {
	ctx, cancel := context.WithTimeout(ctx, o.l.integrationsTime(o.pool.Spec.Integrations))
	defer cancel()
	resp, err := o.l.opt.Guests.Ask(ctx, o.inst.ID, guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: names}})
	switch r := resp.CheckpointResult; {
	case err != nil:
		return names, display.Clip(err.Error())
	case r == nil:
		return names, "unexpected answer from the guest"
	case r.Success:
		return nil, ""
	default:
		return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(r.Failed, n) }), detail(r.Detail)
	}
}

// integrationsTime is how long the commands of all of them may take, one after the other.
func (l *Lifecycle) integrationsTime(list []mvm.Integration) time.Duration {
	sum := l.opt.Timeouts.Call
	for _, i := range list {
		sum += i.Timeout()
	}
	return sum
}

// restoreIntegrations has the guest's integrations restored, which nothing waits for,
// once traffic may come.
func (o *operation) restoreIntegrations() {
	i, list := o.inst, o.pool.Spec.Integrations
	if len(list) == 0 && !i.Suspends {
		return
	}
	o.l.group.Go(func() {
		if len(list) == 0 {
			o.l.opt.Health.NoteIntegrations(o.l.life, i)
			return
		}
		ctx, cancel := context.WithTimeout(o.l.life, o.l.integrationsTime(list))
		defer cancel()
		resp, err := o.l.opt.Guests.Ask(ctx, i.ID, guestproto.Request{Wake: true})
		if err != nil || resp.WakeAck == nil || !resp.WakeAck.Success {
			o.log.Warn("restore integrations", "error", err)
		}
		o.l.opt.Health.NoteIntegrations(o.l.life, i)
	})
}
