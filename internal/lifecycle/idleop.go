package lifecycle

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/store"
)

// activitySlack is by how much a gateway's word on the time of the last bytes may
// differ from one report to the next, from clocks and rounding.
const activitySlack = time.Second

// byPolicy reports whether the policy wants the operation.
func (o *operation) byPolicy() bool { return o.job.req.Idle != nil }

// stillIdle refuses, within the intent's transaction, what the policy decided on an
// instance that is not as it was.
func (o *operation) stillIdle(tx *store.Tx, i mvm.Instance) error {
	g := o.job.req.Idle
	if g == nil {
		return nil
	}
	pool, err := tx.Pool(i.Tenant, i.Pool)
	if err != nil {
		return err
	}
	tenant, err := tx.Tenant(i.Tenant)
	if err != nil {
		return err
	}
	switch {
	case !i.Changed.Equal(g.Changed), i.ManualOverrideUntil.After(time.Now()):
		return mvm.Errorf(mvm.KindState, "somebody else changed it meanwhile: %w", errInUse)
	case pool.Spec.Pinned, pool.Spec.Critical, tenant.Pinned:
		return mvm.Errorf(mvm.KindState, "it was pinned meanwhile: %w", errInUse)
	}
	return nil
}

// fenceIdle fences an instance that the policy takes for idle. Since nothing is sent to
// it any more without asking, what the gateways say now is the last word: a request
// that came after the decision wins.
func (o *operation) fenceIdle(ctx context.Context) error {
	use := o.l.opt.Ingress.Fence(ctx, o.inst)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	g, now, here := o.job.req.Idle, time.Now(), o.l.opt.Ingress.Use(o.inst.ID)
	quiet := time.Duration(o.pool.Spec.Policy.QuietConnectionSeconds) * time.Second
	switch {
	case use.Active > 0:
		return mvm.Errorf(mvm.KindState, "%d requests are under way at the gateway: %w", use.Active, errInUse)
	case use.Open > 0 && (quiet == 0 || now.Sub(use.Last) < quiet):
		return mvm.Errorf(mvm.KindState, "%d connections are open at the gateway: %w", use.Open, errInUse)
	case use.Last.After(g.Since.Add(activitySlack)):
		return mvm.Errorf(mvm.KindState, "a request came after it was decided: %w", errInUse)
	case here.Execs > 0:
		return mvm.Errorf(mvm.KindState, "a command runs in it: %w", errInUse)
	case here.Published > 0:
		return mvm.Errorf(mvm.KindState, "a connection to its published ports is open: %w", errInUse)
	}
	return nil
}

// notDrained says what a guest that did not get ready means: an operation of the policy
// is called off, since it must not cut off work, unless the guest is mute for so long
// that nothing is to be expected of it; any other goes on.
func (o *operation) notDrained(why string) error {
	o.l.opt.Journal.Record(o.event(mvm.DrainTimedOut, why))
	if !o.byPolicy() || o.silent && o.job.req.Idle.Mute {
		return nil
	}
	return mvm.Errorf(mvm.KindState, "the guest was not ready to sleep, so the sleep policy stops here: %s", why)
}

// stillUnproven refuses, within the intent's transaction, to reclaim an instance that
// has served its key meanwhile.
func (o *operation) stillUnproven(_ *store.Tx, i mvm.Instance) error {
	if o.job.req.Unproven && !i.Unproven {
		return mvm.Errorf(mvm.KindState, "it served its key meanwhile: %w", errInUse)
	}
	return nil
}

// errInUse calls off what the policy wants: somebody uses the instance.
var errInUse = mvm.Errorf(mvm.KindState, "the instance is in use")

// CallOff ends an operation that the policy wanted of the instance, where one is under
// way and not committed yet.
func (l *Lifecycle) CallOff(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.runners[id]; r != nil && len(r.jobs) > 0 && r.jobs[0].req.Idle != nil {
		r.jobs[0].cancel(errInUse)
	}
}

// CalledOff reports that what the policy wanted ended so because somebody wants the instance.
func CalledOff(err error) bool { return errors.Is(err, errInUse) || errors.Is(err, errWakeArrived) }

// GaveWay reports that an operation ended so because something else was asked for, or the agent ends.
func GaveWay(err error) bool {
	return errors.Is(err, errGivenUp) || errors.Is(err, errWakeArrived) || errors.Is(err, ErrClosing)
}
