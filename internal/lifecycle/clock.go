package lifecycle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// The error that a guest's clock may have, and how often it is looked at until that
// is sure.
const (
	maxClockError = 20 * time.Millisecond
	maxClockLooks = 8
)

// clockBounds are between what the error of a guest's clock lies, by all that was
// seen of it. The zero value knows nothing.
type clockBounds struct {
	lo, hi time.Duration
	known  bool
}

// saw narrows the bounds: the clock showed at, some time between sent and got.
func (c *clockBounds) saw(at, sent, got time.Time) {
	lo, hi := at.Sub(got), at.Sub(sent)
	if c.known && lo <= c.hi && hi >= c.lo {
		lo, hi = max(lo, c.lo), min(hi, c.hi)
	}
	c.lo, c.hi, c.known = lo, hi, true
}

// stepped says that the clock was stepped.
func (c *clockBounds) stepped(by time.Duration) { c.lo, c.hi = c.lo+by, c.hi+by }

// least is the smallest error, with its sign, that goes with what was seen.
func (c *clockBounds) least() time.Duration {
	switch {
	case c.lo > 0:
		return c.lo
	case c.hi < 0:
		return c.hi
	}
	return 0
}

func (c *clockBounds) middle() time.Duration { return (c.lo + c.hi) / 2 }

// sure reports that the error is within maxClockError, whatever it is.
func (c *clockBounds) sure() bool { return c.known && c.lo >= -maxClockError && c.hi <= maxClockError }

// correctClock corrects the guest's clock until it is surely right. An answer that
// took long says little: then it looks again, rather than correct by a guess. A
// clock that can't be shown to be wrong is let be in the end.
func (o *operation) correctClock(ctx context.Context, guest int64, sent, got time.Time) error {
	var c clockBounds
	c.saw(time.Unix(0, guest), sent, got)
	for n := 0; !c.sure() && n < maxClockLooks; n++ {
		step := time.Duration(0)
		if c.least() != 0 {
			step = -c.middle()
		}
		sent := o.l.opt.Now()
		resp, err := o.l.opt.Guests.Ask(ctx, o.inst.ID, guestproto.Request{AdjustClock: &guestproto.AdjustClock{OffsetNanos: int64(step)}})
		if err != nil {
			return err
		}
		if resp.ClockAck == nil {
			return mvm.Errorf(mvm.KindUnavailable, "adjust guest clock: it gave another answer")
		}
		c.stepped(step)
		c.saw(time.Unix(0, resp.ClockAck.UnixNanos), sent, o.l.opt.Now())
	}
	if c.least().Abs() > maxClockError {
		return mvm.Errorf(mvm.KindUnavailable, "adjust guest clock: it is still %s off after %d corrections", c.least(), maxClockLooks)
	}
	o.clock, o.clockSure = c.least(), c.sure()
	if o.clockSure {
		o.clock = c.middle()
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

// opClock sets the clock of a guest that runs right, and does nothing else. The agent asks for
// it, and nobody else. It is an operation so that no other sets the clock at the same time.
const opClock mvm.OpKind = "clock"

// ClockSet says that the host's clock was set: the guests that run have the time of before.
// A guest that rests gets the time when it runs again.
func (l *Lifecycle) ClockSet() error {
	var all []mvm.Instance
	err := l.store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances("", "")
		return err
	})
	for _, i := range all {
		if i.State.HoldsMemory() || i.Op != nil {
			l.clocks.Set(i.ID, true)
		}
	}
	l.rightClocks()
	return err
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
