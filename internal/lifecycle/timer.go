package lifecycle

import (
	"time"

	"mvm"
)

// restsWith notes the next wake that the guest told when it got ready to rest. The policy is
// called off where it is too near.
func (o *operation) restsWith(next time.Time) error {
	o.nextWake = o.l.opt.Schedule.Rests(o.inst.ID, next)
	if o.byPolicy() && mvm.AwaitsTimer(o.nextWake, o.l.opt.Now()) {
		return mvm.Errorf(mvm.KindState, "its next wake is at %s: %w", o.nextWake.Format(time.RFC3339), errInUse)
	}
	return nil
}

// timerEvent is what is recorded of the next wake of an instance that has gone to sleep.
func (o *operation) timerEvent(act mvm.Action, i mvm.Instance) (mvm.Event, bool) {
	if act != mvm.InstanceSlept || i.NextWake.IsZero() {
		return mvm.Event{}, false
	}
	ev := o.event(mvm.TimerSet, i.NextWake.Format(time.RFC3339))
	ev.By, ev.Why = mvm.Asker{Kind: mvm.AskerGuest, ID: i.ID}, ""
	return ev, true
}
