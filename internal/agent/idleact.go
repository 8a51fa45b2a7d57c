package agent

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"mvm"
	"mvm/internal/policy"
	"mvm/internal/wait"
)

// decide notes what was decided on an instance and does it.
func (a *Agent) decide(s policy.Subject, d policy.Decision, now time.Time) {
	i := s.Instance
	a.idle.mu.Lock()
	t := a.idle.tracks[i.ID]
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
	if act && now.Sub(t.measured) > idleFresh {
		t.next, act = now, false // what was measured is too old to act on
	}
	if act = act && a.idle.acting() < idleOps; act {
		t.acting = true
	}
	grounds := &idleGrounds{changed: i.Changed, since: s.IdleSince, mute: !t.guest.MuteSince.IsZero()}
	a.idle.mu.Unlock()
	switch {
	case put:
		a.opt.Metrics.Deferred(mvm.OpKind(d.Want), strings.TrimSuffix(d.Guard, "_seconds"))
		a.journal.Record(idleEvent(i, d.Reason, d.Guard))
	case act:
		a.rest(t, s, request{op: mvm.OpKind(d.Do), by: mvm.Asker{Kind: mvm.AskerPolicy}, why: d.Reason, idle: grounds})
	}
}

// acting counts the operations of the policy that are under way. idler.mu is held.
func (d *idler) acting() (n int) {
	for _, t := range d.tracks {
		if t.acting {
			n++
		}
	}
	return n
}

func idleEvent(i mvm.Instance, why, detail string) mvm.Event {
	return mvm.Event{Time: time.Now(), Action: mvm.TransitionDeferred, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID,
		By: mvm.Asker{Kind: mvm.AskerPolicy}, Why: why, Detail: clip(detail)}
}

// rest submits the operation and sees to its end.
func (a *Agent) rest(t *track, s policy.Subject, req request) {
	j, err := a.enqueue(s.Instance.ID, req)
	if err != nil {
		a.rested(t, s, req, err)
		return
	}
	waits := a.goTracked(func() {
		if err := wait.Done(a.ctx, j.done); err != nil {
			a.rested(t, s, req, errClosing)
			return
		}
		a.rested(t, s, req, j.err)
	})
	if !waits {
		a.rested(t, s, req, errClosing)
	}
}

// rested notes how an operation of the policy went. One that failed is on record once,
// however often it is tried; one that was called off is no failure.
func (a *Agent) rested(t *track, s policy.Subject, req request, err error) {
	off := errors.Is(err, errInUse) || errors.Is(err, errWakeArrived)
	a.idle.mu.Lock()
	t.acting = false
	first := err != nil && !off && t.tries == 0
	if off {
		t.wanted = time.Now()
	}
	if err != nil {
		t.failed = clip(err.Error())
		t.backoff = time.Now().Add(t.retry(s.Spec.Policy, off))
	}
	a.idle.mu.Unlock()
	a.idle.poke()
	if err == nil || a.ctx.Err() != nil {
		return
	}
	level, reason := slog.LevelWarn, "failed"
	if off {
		level, reason = slog.LevelInfo, "in_use"
	}
	a.log.Log(a.ctx, level, "idle instance stays awake", "instance", s.Instance.ID, "op", req.op, "error", err)
	a.opt.Metrics.Deferred(req.op, reason)
	if off || first {
		a.journal.Record(idleEvent(s.Instance, req.why, err.Error()))
	}
}

// retry is how long the instance is left alone after a try that came to nothing. What
// was called off is tried again as soon as it is idle for long enough. idler.mu is held.
func (t *track) retry(p mvm.RuntimePolicy, off bool) time.Duration {
	first := min(idleRetry, 2*policy.Interval(p))
	if off {
		return first
	}
	t.tries++
	return min(first<<min(t.tries-1, 10), idleRetries)
}
