package lifecycle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/guestclock"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// maxClockLooks bounds how often a clock is looked at until it is surely right.
const maxClockLooks = 8

// correctClock corrects the guest's clock until it is surely right. An answer that
// took long says little: then it looks again, rather than correct by a guess. A
// clock that can't be shown to be wrong is let be in the end.
func (o *operation) correctClock(ctx context.Context, guest int64, sent, got time.Time) error {
	var c guestclock.Bounds
	c.Saw(time.Unix(0, guest), sent, got)
	for n := 0; !c.Sure() && n < maxClockLooks; n++ {
		step := time.Duration(0)
		if c.Least() != 0 {
			step = -c.Middle()
		}
		sent := o.l.opt.Now()
		resp, err := o.l.opt.Guests.Ask(ctx, o.inst.ID, guestproto.Request{AdjustClock: &guestproto.AdjustClock{OffsetNanos: int64(step)}})
		if err != nil {
			return err
		}
		if resp.ClockAck == nil {
			return mvm.Errorf(mvm.KindUnavailable, "adjust guest clock: it gave another answer")
		}
		c.Stepped(step)
		c.Saw(time.Unix(0, resp.ClockAck.UnixNanos), sent, o.l.opt.Now())
	}
	if c.Least().Abs() > guestclock.MaxError {
		return mvm.Errorf(mvm.KindUnavailable, "adjust guest clock: it is still %s off after %d corrections", c.Least(), maxClockLooks)
	}
	o.clock, o.clockSure = c.Least(), c.Sure()
	if o.clockSure {
		o.clock = c.Middle()
	}
	return nil
}

// rightClock has the guest's clock right, also before it stands still: a wake then only
// adds the time that passed. A guest that does not answer sleeps all the same, and
// its clock is set by the gate.
func (o *operation) rightClock(ctx context.Context) error {
	if o.silent {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Call)
	defer cancel()
	sent := o.l.opt.Now()
	resp, err := o.l.opt.Guests.Ask(callCtx, o.inst.ID, guestproto.Request{AdjustClock: &guestproto.AdjustClock{}})
	if err == nil && resp.ClockAck != nil {
		err = o.correctClock(callCtx, resp.ClockAck.UnixNanos, sent, o.l.opt.Now())
	}
	if err != nil && ctx.Err() == nil {
		o.log.Warn("set the guest's clock right", "error", err)
		return nil
	}
	return context.Cause(ctx)
}

// opClock sets the clock of a guest that runs right: an operation, so that no other does meanwhile.
const opClock mvm.OpKind = "clock"

// ClockSet says that the host's clock was set: the guests that run have the time of before.
// A guest that rests gets the time when it runs again.
func (l *Lifecycle) ClockSet() error {
	defer l.rightClocks()
	return l.store.View(func(tx *store.Tx) error {
		all, err := tx.Instances("", "")
		for _, i := range all {
			l.clocks.Set(i.ID, i.State.HoldsMemory() || i.Op != nil || l.clocks.Has(i.ID))
		}
		return err
	})
}

// rightClocks begins to set clocks of guests right. Where an operation is under way it waits
// for its end: that may have told the guest the time of before.
func (l *Lifecycle) rightClocks() {
	for _, id := range l.clocks.All() {
		if n, _ := l.Queued(id); n > 0 {
			continue
		}
		l.clocks.Set(id, false)
		if _, err := l.Enqueue(id, Request{Op: opClock, By: byAgent(), Why: "the host's clock was set"}); err != nil {
			return
		}
	}
}
