package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/snapshot"
	"mvm/internal/store"
)

// repeatWithin is the time within which tries that fail alike count as one: guests and
// their clients can cause many.
const repeatWithin = 10 * time.Second

// transition is how the operation went so far.
func (o *operation) transition(to mvm.State) *mvm.Transition {
	op := o.kind
	if op == opRepair && o.finishes != nil {
		op = o.finishes.Kind
	}
	by, why := o.asker()
	return &mvm.Transition{Op: op, From: o.from, To: to, Kind: o.bootWay, Reason: o.reason, By: by, Why: why,
		Started: o.began, Took: time.Since(o.began), Stages: o.stages, ClockError: o.clock, SnapshotBytes: o.snapBytes,
		SecretsGeneration: o.inst.SecretsGeneration, Image: o.inst.Image, VMM: o.vmmName, Request: o.job.req.id,
		Unwanted: o.unwanted && to == mvm.StateStopped}
}

// startedVMM notes which VMM the instance has. The driver has just started it, so it
// knows; where it does not say, the record does without.
func (o *operation) startedVMM(ctx context.Context) {
	if info, err := o.l.opt.Driver.Info(ctx); err == nil {
		o.vmmName = snapshot.HostOf(info).VMM
	}
}

// report tells those who watch how the operation ended: log, metrics, and the record of
// the instance where it failed.
func (o *operation) report(err error) {
	t := o.transition(o.inst.State)
	o.l.opt.Metrics.Operation(*t, err)
	if err == nil {
		o.l.wakeFaults.ended(o.inst.ID)
		if t.From != t.To {
			o.log.Info("operation done", "op", t.Op, "by", t.By, "from", t.From, "to", t.To, "kind", t.Kind, "took", t.Took)
		}
		return
	}
	level := slog.LevelWarn
	if mvm.IsKind(err, mvm.KindQuota) || o.byPolicy() { // the audit log has it, and guests can cause many
		level = slog.LevelDebug
	}
	o.log.Log(o.job.ctx, level, "operation failed", "op", t.Op, "by", t.By, "error", display.WithoutLog(err.Error()))
	t.Error = display.Recordable(err)
	if e := o.l.keepFailure(o.inst.ID, *t); e != nil && !mvm.IsKind(e, mvm.KindNotFound) && !errors.Is(e, ErrClosing) {
		o.log.Warn("record a failed operation", "op", t.Op, "error", e)
	}
}

// keepFailure adds a failed transition to the instance's record. One that failed just
// like the last one counts there, and not at all where that was a moment ago.
func (l *Lifecycle) keepFailure(id string, t mvm.Transition) error {
	var last mvm.Transition
	err := l.store.View(func(tx *store.Tx) error {
		all, err := tx.Transitions(id)
		if n := len(all); n > 0 {
			last = all[n-1]
		}
		return err
	})
	if err != nil {
		return err
	}
	if last.Op == t.Op && last.Error == t.Error {
		if t.Started.Sub(latest(last)) < repeatWithin {
			return nil
		}
		last.Repeated++
		last.Until = t.Started
		t = last
	}
	return l.store.Update(func(tx *store.Tx) error { return tx.PutTransition(id, t) })
}

// latest is when the transition was tried last.
func latest(t mvm.Transition) time.Time {
	if t.Until.IsZero() {
		return t.Started
	}
	return t.Until
}

// recordReady records that every service of the instance is ready, and how long that
// took with the rest of the operation, or of the one that booted it: became says that they
// were not ready before.
func (o *operation) recordReady(became bool) error {
	return o.update(func(tx *store.Tx, i *mvm.Instance) error {
		i.Ready, i.Problem = true, ""
		if i.Last == nil || !i.Last.Started.Equal(o.began) {
			if became {
				return tx.EndBoot(i, o.l.opt.Now())
			}
			return nil
		}
		i.Last.Stages, i.Last.Took = o.stages, time.Since(o.began)
		return tx.PutTransition(i.ID, *i.Last)
	})
}
