package idle

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/policy"
	"mvm/internal/wait"
)

// decide notes what was decided on an instance and does it.
func (l *Loop) decide(ctx context.Context, s policy.Subject, d policy.Decision, now time.Time) {
	i := s.Instance
	l.mu.Lock()
	t := l.tracks[i.ID]
	t.decision = d
	if !d.Next.IsZero() && d.Next.Before(t.next) {
		t.next = d.Next // to decide by what is then
	}
	put := d.Do == policy.Defer && t.deferred != d.Guard
	t.deferred = ""
	if d.Do == policy.Defer {
		t.deferred = d.Guard
	}
	act := (d.Do == policy.Warm || d.Do == policy.Sleep) && !t.acting
	if act && now.Sub(t.measured) > fresh {
		t.next, act = now, false // what was measured is too old to act on
	}
	if act = act && l.acting() < maxOps; act {
		t.acting = true
	}
	grounds := Grounds{Changed: i.Changed, Since: s.IdleSince, Mute: !t.guest.MuteSince.IsZero()}
	l.mu.Unlock()
	switch {
	case put:
		l.opt.Metrics.Deferred(mvm.OpKind(d.Want), strings.TrimSuffix(d.Guard, "_seconds"))
		l.opt.Journal.Record(event(i, d.Reason, d.Guard))
	case act:
		l.rest(ctx, t, s, Order{Op: mvm.OpKind(d.Do), Why: d.Reason, Grounds: grounds})
	}
}

// acting counts the operations of the policy that are under way. l.mu is held.
func (l *Loop) acting() (n int) {
	for _, t := range l.tracks {
		if t.acting {
			n++
		}
	}
	return n
}

func event(i mvm.Instance, why, detail string) mvm.Event {
	return mvm.Event{Time: time.Now(), Action: mvm.TransitionDeferred, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID,
		By: mvm.Asker{Kind: mvm.AskerPolicy}, Why: why, Detail: display.Clip(detail)}
}

// rest submits the operation and sees to its end.
func (l *Loop) rest(ctx context.Context, t *track, s policy.Subject, o Order) {
	j, err := l.opt.Queue.Order(s.Instance.ID, o)
	if err != nil {
		l.rested(ctx, t, s, o, err)
		return
	}
	waits := l.start(ctx, func() {
		if err := wait.Done(ctx, j.Done()); err != nil {
			l.rested(ctx, t, s, o, context.Cause(ctx))
			return
		}
		l.rested(ctx, t, s, o, j.Err())
	})
	if !waits {
		l.rested(ctx, t, s, o, context.Cause(ctx))
	}
}

// rested notes how an operation of the policy went. One that failed is on record once,
// however often it is tried; one that was called off is no failure.
func (l *Loop) rested(ctx context.Context, t *track, s policy.Subject, o Order, err error) {
	off := l.opt.Queue.CalledOff(err)
	l.mu.Lock()
	t.acting = false
	first := err != nil && !off && t.tries == 0
	if off {
		t.wanted = time.Now()
	}
	if err != nil {
		t.failed = display.Clip(err.Error())
		t.backoff = time.Now().Add(t.retry(s.Spec.Policy, off))
	}
	l.mu.Unlock()
	l.Poke()
	if err == nil || ctx.Err() != nil {
		return
	}
	level, reason := slog.LevelWarn, "failed"
	if off {
		level, reason = slog.LevelInfo, "in_use"
	}
	l.opt.Log.Log(ctx, level, "idle instance stays awake", "instance", s.Instance.ID, "op", o.Op, "error", err)
	l.opt.Metrics.Deferred(o.Op, reason)
	if off || first {
		l.opt.Journal.Record(event(s.Instance, o.Why, err.Error()))
	}
}

// retry is how long the instance is left alone after a try that came to nothing. What
// was called off is tried again as soon as it is idle for long enough. l.mu is held.
func (t *track) retry(p mvm.RuntimePolicy, off bool) time.Duration {
	first := min(retryFirst, 2*policy.Interval(p))
	if off {
		return first
	}
	t.tries++
	return min(first<<min(t.tries-1, 10), retryMost)
}
