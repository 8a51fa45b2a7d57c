package agent

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/policy"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// measureDue has what is due measured, and returns how long nothing will be.
func (a *Agent) measureDue(subjects []policy.Subject, now time.Time) time.Duration {
	wait := idleRound
	for _, s := range subjects {
		a.idle.mu.Lock()
		t := a.idle.tracks[s.Instance.ID]
		free := !t.sampling && !t.acting && s.Instance.Op == nil
		due := free && !t.next.After(now)
		if due {
			t.sampling = true
		} else if free {
			wait = min(wait, t.next.Sub(now))
		}
		a.idle.mu.Unlock()
		if due && !a.goTracked(func() { a.measure(t, s) }) {
			return wait
		}
	}
	return max(wait, idleGap)
}

// measure takes one sample of an instance. A guest that does not answer holds up no
// other, beyond the few that are asked at once.
func (a *Agent) measure(t *track, s policy.Subject) {
	defer a.idle.poke()
	a.lateReady(s.Instance)
	a.askHealth(s.Instance)
	sample, rss, err := a.sample(t, s)
	i := s.Instance
	stale := a.ctx.Err() != nil || a.isOther(i)
	a.idle.mu.Lock()
	defer a.idle.mu.Unlock()
	t.sampling = false
	every := policy.Interval(s.Spec.Policy)
	t.next = time.Now().Add(every)
	switch {
	case stale:
		t.next = time.Now().Add(time.Second)
		return
	case err != nil:
		t.err = clip(err.Error())
		return
	}
	t.err, t.rss = "", rss
	if sample.Running {
		t.guest = sample.Guest
	}
	t.meter.Observe(sample, s.Spec.Policy)
	t.measured = time.Now()
	if sample.Running && !t.meter.Complete() {
		t.next = t.measured.Add(min(every, idleFirst))
	}
}

// isOther reports whether an operation changes the instance, or did meanwhile: what was
// seen of it may be of that.
func (a *Agent) isOther(i mvm.Instance) bool {
	if n, _ := a.Queued(i.ID); n > 0 {
		return true
	}
	err := a.store.View(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err == nil && !now.Changed.Equal(i.Changed) {
			err = errInUse
		}
		return err
	})
	return err != nil
}

// sample looks at the instance: from outside, and what its guest says.
func (a *Agent) sample(t *track, s policy.Subject) (policy.Sample, int64, error) {
	i := s.Instance
	out := policy.Sample{Running: i.State == mvm.StateRunning, Since: i.Changed}
	ctx, cancel := context.WithTimeout(a.ctx, min(idleAnswer, a.opt.Timeouts.Call))
	defer cancel()
	v, err := t.live.vmm.Stats(ctx)
	if err != nil {
		return out, 0, err
	}
	out.At, out.CPU, out.Bytes = time.Now(), v.CPU, v.RxBytes+v.TxBytes
	if out.Running {
		a.idle.mu.Lock()
		guest := t.guest
		out.LastWanted = t.wanted
		a.idle.mu.Unlock()
		out.Guest = a.askIdle(i.ID, guest)
	}
	use, gateway := a.activity.of(i.ID)
	out.Connections, out.Active, out.Gateway, out.LastActive = use.open, use.active, gateway, use.last
	out.Execs, out.Published = a.execs.of(i.ID), a.published.of(i.ID)
	return out, v.RSSBytes, nil
}

// askIdle asks the guest how busy it is; before is what it said last.
func (a *Agent) askIdle(id string, before policy.Guest) policy.Guest {
	release, err := wait.Slot(a.ctx, a.idle.slots)
	if err != nil {
		return before
	}
	defer release()
	began := time.Now()
	ctx, cancel := context.WithTimeout(a.ctx, min(idleAnswer, a.opt.Timeouts.Call))
	defer cancel()
	resp, err := a.ask(ctx, id, guestproto.Request{WorkerStatus: true})
	w := resp.WorkerStatus
	if err != nil || w == nil {
		if before.MuteSince.IsZero() {
			before.MuteSince = began
		}
		return before
	}
	out := policy.Guest{Asked: began, Busy: w.Status != "idle", Reason: clip(w.Reason)}
	if w.LastBusyAt != nil {
		out.LastBusy = *w.LastBusyAt
	}
	return out
}
