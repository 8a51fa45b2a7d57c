package lifecycle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Times of services that hold still.
const (
	// leaseMargin is what must be left of a lease when the machine is to stand still.
	leaseMargin = 15 * time.Second
	// settleWait is how long traffic waits for services to go on after a wake. They are
	// told again by the guest itself when they have not heard by then.
	settleWait = 30 * time.Second
	// toldWait bounds waiting for services that are told of new secrets, for the record.
	toldWait = 150 * time.Second
)

// suspend has the services of the image that can do so hold still, so that nothing is
// begun between here and the pause. One that is busy keeps the instance awake, on
// record.
func (o *operation) suspend(ctx context.Context) error {
	if !o.inst.Suspends {
		return nil
	}
	if err := o.save(func(i *mvm.Instance) { i.Held = true }); err != nil {
		return err
	}
	err := o.askSuspend(ctx)
	if ctx.Err() == nil {
		o.l.opt.Health.NoteIntegrations(ctx, o.inst)
	}
	return err
}

func (o *operation) askSuspend(ctx context.Context) error {
	secs, began := o.pool.Spec.Policy.DrainTimeoutSeconds, time.Now()
	if o.job.req.Force || o.byPolicy() { // which takes it for idle: if it is not, that is that
		secs = 0
	}
	call, cancel := context.WithTimeout(ctx, o.drainTimeout()+2*o.l.opt.Timeouts.Call)
	defer cancel()
	resp, err := o.l.opt.Guests.Ask(call, o.inst.ID, guestproto.Request{Suspend: &guestproto.Suspend{DrainTimeoutSecs: secs}})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		o.silent = true
		return o.notDrained(display.Clip(err.Error()))
	case resp.SuspendAck == nil:
		return o.notDrained("unexpected answer from the guest")
	case resp.SuspendAck.Success:
		o.leaseEnd = time.Time{}
		if ms := resp.SuspendAck.LeaseMS; ms > 0 {
			o.leaseEnd = began.Add(time.Duration(ms) * time.Millisecond)
		}
		return nil
	}
	why := detail(resp.SuspendAck.Detail)
	if o.job.req.Force {
		o.log.Warn("services do not hold still", "why", why)
		return nil
	}
	o.deferred(why)
	return mvm.Errorf(mvm.KindPolicy, "the workload is busy, so the instance stays awake: %s", why).
		WithFix("try again when it is idle, or use --force")
}

// deferred records that the guest keeps the instance awake. The policy does so itself, of
// what it asked for, and once however often it tries.
func (o *operation) deferred(why string) {
	if !o.byPolicy() {
		o.l.opt.Journal.Record(o.event(mvm.TransitionDeferred, why))
	}
}

// renewLease has services that hold still do so for longer where little is left.
func (o *operation) renewLease(ctx context.Context) error {
	if o.leaseEnd.IsZero() || time.Until(o.leaseEnd) > leaseMargin {
		return nil
	}
	if err := o.askSuspend(ctx); err != nil {
		return err
	}
	if !o.leaseEnd.IsZero() && time.Until(o.leaseEnd) < leaseMargin && !o.job.req.Force {
		return mvm.Errorf(mvm.KindState, "the services pause for only %s, too short to pause the microVM", time.Until(o.leaseEnd).Round(time.Second))
	}
	return nil
}

// settleGuest waits until services that held still go on and know the secrets in force,
// so that the first request finds them so. One that takes too long is not waited for.
func (o *operation) settleGuest(ctx context.Context) error {
	if !o.inst.Held && !o.settling {
		return nil
	}
	untold, err := o.l.askSettle(ctx, o.inst.ID, settleWait)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		untold = display.Clip(err.Error())
		o.log.Warn("services were not seen to go on", "error", err)
	}
	o.settled, o.untold = true, untold
	return nil
}

// askSettle returns what services could not be told, "" when there is nothing.
func (l *Lifecycle) askSettle(ctx context.Context, id string, wait time.Duration) (untold string, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	resp, err := l.opt.Guests.Ask(ctx, id, guestproto.Request{Settle: true})
	switch {
	case err != nil:
		return "", err
	case resp.SettleAck == nil:
		return "", mvm.Errorf(mvm.KindUnavailable, "settle services of %s: unexpected answer from the guest", id)
	case resp.SettleAck.Success:
		return "", nil
	}
	return detail(resp.SettleAck.Detail), nil
}

// noteSettled puts in the record what settleGuest found.
func (o *operation) noteSettled(i *mvm.Instance) {
	if o.settled {
		i.Held, i.Untold = false, o.untold
	}
	if o.bootWay == "cold" {
		i.Held, i.Untold = false, ""
	}
}

// NoteTold waits, beside other work, until the services of a running instance know the
// secrets that it was given, and records what they could not be told.
func (l *Lifecycle) NoteTold(id string) {
	l.group.Go(func() {
		untold, err := l.askSettle(l.life, id, toldWait)
		if err == nil {
			err = l.store.Update(func(tx *store.Tx) error {
				i, err := tx.Instance(id)
				if err != nil {
					return err
				}
				i.Untold = untold
				return tx.PutInstance(i)
			})
		}
		if err != nil && l.life.Err() == nil {
			l.log.Warn("wait until services know the secrets", "instance", id, "error", err)
		}
	})
}
