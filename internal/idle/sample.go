package idle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/policy"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// measureDue has what is due measured, and returns how long nothing will be.
func (l *Loop) measureDue(ctx context.Context, subjects []policy.Subject, now time.Time) time.Duration {
	wait := maxGap
	for _, s := range subjects {
		l.mu.Lock()
		t := l.tracks[s.Instance.ID]
		free := !t.sampling && !t.acting && s.Instance.Op == nil
		due := free && !t.next.After(now)
		if due {
			t.sampling = true
		} else if free {
			wait = min(wait, t.next.Sub(now))
		}
		l.mu.Unlock()
		if due && !l.start(ctx, func() { l.measure(ctx, t, s) }) {
			return wait
		}
	}
	return max(wait, minGap)
}

// measure takes one sample of an instance. A guest that does not answer holds up no
// other, beyond the few that are asked at once.
func (l *Loop) measure(ctx context.Context, t *track, s policy.Subject) {
	defer l.Poke()
	l.opt.Instances.Look(ctx, s.Instance)
	sample, rss, err := l.sample(ctx, t, s)
	i := s.Instance
	stale := ctx.Err() != nil || l.isOther(i)
	l.mu.Lock()
	defer l.mu.Unlock()
	t.sampling = false
	every := policy.Interval(s.Spec.Policy)
	t.next = time.Now().Add(every)
	switch {
	case stale:
		t.next = time.Now().Add(time.Second)
		return
	case err != nil:
		t.err = display.Clip(err.Error())
		return
	}
	t.err, t.rss = "", rss
	if sample.Running {
		t.guest = sample.Guest
	}
	t.meter.Observe(sample, s.Spec.Policy)
	t.measured = time.Now()
	if sample.Running && !t.meter.Complete() {
		t.next = t.measured.Add(min(every, firstGap))
	}
}

// isOther reports whether an operation changes the instance, or did meanwhile: what was
// seen of it may be of that.
func (l *Loop) isOther(i mvm.Instance) bool {
	if l.opt.Queue.Busy(i.ID) {
		return true
	}
	changed := false
	err := l.opt.Store.View(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		changed = err == nil && !now.Changed.Equal(i.Changed)
		return err
	})
	return changed || err != nil
}

// sample looks at the instance: from outside, and what its guest says.
func (l *Loop) sample(ctx context.Context, t *track, s policy.Subject) (policy.Sample, int64, error) {
	i := s.Instance
	out := policy.Sample{Running: i.State == mvm.StateRunning, Since: i.Changed}
	statsCtx, cancel := context.WithTimeout(ctx, min(answerTime, l.opt.Call))
	defer cancel()
	v, err := t.vmm.Stats(statsCtx)
	if err != nil {
		return out, 0, err
	}
	out.At, out.CPU, out.Bytes = time.Now(), v.CPU, v.RxBytes+v.TxBytes
	if out.Running {
		l.mu.Lock()
		guest := t.guest
		out.LastWanted = t.wanted
		l.mu.Unlock()
		out.Guest = l.askIdle(ctx, i.ID, guest)
	}
	l.opt.Instances.Use(i.ID, &out)
	return out, v.RSSBytes, nil
}

// askIdle asks the guest how busy it is; before is what it said last.
func (l *Loop) askIdle(ctx context.Context, id string, before policy.Guest) policy.Guest {
	var began time.Time
	var resp guestproto.Response
	err := l.Question(ctx, func(ctx context.Context) (err error) {
		began = time.Now()
		resp, err = l.opt.Instances.Ask(ctx, id, guestproto.Request{WorkerStatus: true})
		return err
	})
	if began.IsZero() {
		return before
	}
	w := resp.WorkerStatus
	if err != nil || w == nil {
		if before.MuteSince.IsZero() {
			before.MuteSince = began
		}
		return before
	}
	out := policy.Guest{Asked: began, Busy: w.Status != "idle", Reason: display.Clip(w.Reason)}
	if w.LastBusyAt != nil {
		out.LastBusy = *w.LastBusyAt
	}
	return out
}

// Question calls ask within the bounds of the loop's questions to guests: a few at a time,
// each with a deadline. Where ctx ends before its turn comes it returns why.
func (l *Loop) Question(ctx context.Context, ask func(ctx context.Context) error) error {
	release, err := wait.Slot(ctx, l.slots)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, min(answerTime, l.opt.Call))
	defer cancel()
	return ask(ctx)
}
