package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/plan"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// task is what reconcile does with one object.
type task struct {
	plan.Task
	// opened: the instance runs, and only its services are waited for.
	opened atomic.Bool
	// about is the first thing that a build said: which one it is.
	about atomic.Pointer[mvm.Progress]
}

// begin makes the task its object's and runs it. The making of an instance is on
// record before it returns, so that the next pass counts it.
func (r *Reconciler) begin(t *task) error {
	if t.Kind == plan.CreateInstance {
		i, err := r.opt.Instances.New(t.At, t.Shown[0].Reason)
		if err != nil {
			r.end(t, err)
			return err
		}
		r.made(t)
		t.At, t.Key = i.Address(), i.ID
	}
	r.mu.Lock()
	o := r.objects[t.Key]
	if o == nil {
		o = &object{at: t.At, role: t.Role}
		r.objects[t.Key] = o
	}
	o.task, o.to = t, t.To
	r.mu.Unlock()
	r.tell(t.At.Tenant, func(w *waiter) { w.begun(t) })
	if !r.group.Go(func() { r.run(t) }) {
		r.end(t, errClosing)
	}
	return nil
}

// made forgets that no instance could be made in the pool.
func (r *Reconciler) made(t *task) {
	r.mu.Lock()
	o := r.objects[t.Key]
	delete(r.objects, t.Key)
	r.mu.Unlock()
	if o == nil {
		return
	}
	if err := r.opt.Store.Update(func(tx *store.Tx) error { return tx.SetPoolProblem(t.At, "") }); err != nil {
		r.opt.Log.Error("clear problem", "pool", t.At.String(), "error", err)
	}
}

// run does the task and notes its end.
func (r *Reconciler) run(t *task) {
	ended := false
	defer func() {
		if !ended { // the goroutine was ended from within, as a test's crash does
			r.end(t, errClosing)
		}
	}()
	ctx := asReconcile(r.life)
	err := r.opt.Seam("reconcile.task:before", t.Key)
	switch {
	case err != nil:
	case t.Kind == plan.BuildPool:
		err = r.build(ctx, t)
	default:
		err = r.operate(ctx, t)
	}
	if err != nil && t.Kind == plan.CreateInstance {
		// The intent is on record: it is finished also where nobody needs the instance now.
		r.opt.Instances.HalfDone(t.At.Instance)
	}
	ended = true
	r.end(t, err)
}

func (r *Reconciler) build(ctx context.Context, t *task) error {
	tell := r.progress(t.At.Tenant)
	return r.opt.Images.Build(ctx, t.At, func(p mvm.Progress) {
		t.about.CompareAndSwap(nil, &p)
		tell(p)
	})
}

func (r *Reconciler) instance(id string) (i mvm.Instance, err error) {
	err = r.opt.Store.View(func(tx *store.Tx) error {
		i, err = tx.Instance(id)
		return err
	})
	return i, err
}

// changedByHand reports that a person has changed the instance lately.
func (r *Reconciler) changedByHand(id string) bool {
	i, err := r.instance(id)
	return err == nil && i.ManualOverrideUntil.After(time.Now())
}

// operate walks the instance through the task's operations. A slot is held until it
// runs: to wait for its services takes nothing.
func (r *Reconciler) operate(ctx context.Context, t *task) error {
	for n, op := range t.Ops {
		if n > 0 && r.changedByHand(t.At.Instance) {
			return mvm.Errorf(mvm.KindState, "%s: a person has changed it meanwhile: %w", t.At, errByHand)
		}
		release, err := wait.Slot(ctx, r.slots)
		if err != nil {
			return err
		}
		o := Order{Op: op, Why: t.Shown[0].Reason, Parks: t.Parked, Opened: func() {
			t.opened.Store(true)
			release()
			r.Poke(t.At.Tenant)
		}}
		err = r.opt.Queue.Submit(ctx, t.At.Instance, o, r.progress(t.At.Tenant))
		release()
		if err != nil {
			return err
		}
	}
	return nil
}

// end notes how a task ended, and has the tenant looked at again. The object is the
// task's until what failed is on record and told: who then sees nothing under way knows
// of it.
func (r *Reconciler) end(t *task, err error) {
	gone := r.isGone(t, err)
	lost := r.opt.Queue.Lost(err)
	gaveWay := lost || errors.Is(err, errByHand) || r.opt.Queue.GaveWay(err) || errors.Is(err, errClosing) || r.life.Err() != nil
	forget := gaveWay || gone
	now := time.Now()
	r.mu.Lock()
	o := r.objects[t.Key]
	if o == nil {
		o = &object{at: t.At, role: t.Role, to: t.To}
		r.objects[t.Key] = o
	}
	o.ended, o.retry = now, time.Time{}
	switch {
	case err == nil:
		forget = forget || o.fails == 0
	case !forget:
		r.failed(o, now)
	}
	retry, fails := o.retry, o.fails
	r.mu.Unlock()
	if err != nil && !gaveWay {
		r.report(t, err, fails, retry.Sub(now))
	}
	r.mu.Lock()
	o.task = nil
	if forget {
		delete(r.objects, t.Key)
	}
	r.told(t, err, lost)
	r.mu.Unlock()
	if !retry.IsZero() {
		r.pokeAt(t.At.Tenant, retry)
	}
	r.Poke(t.At.Tenant)
}

// isGone reports that the task failed because its instance is not there any more, and
// not because something else is missing, such as its image.
func (r *Reconciler) isGone(t *task, err error) bool {
	if t.At.Instance == "" || !mvm.IsKind(err, mvm.KindNotFound) {
		return false
	}
	_, err = r.instance(t.At.Instance)
	return mvm.IsKind(err, mvm.KindNotFound)
}

// report makes a failure visible: in the log, and on the record of what failed.
func (r *Reconciler) report(t *task, err error, fails int, wait time.Duration) {
	level := slog.LevelWarn
	if mvm.IsKind(err, mvm.KindQuota) {
		level = slog.LevelInfo
	}
	r.opt.Log.Log(r.life, level, "reconcile failed", "target", t.At.String(), "action", t.Shown[0].Action,
		"failures", fails, "again_in", wait.Round(time.Second).String(), "error", display.WithoutLog(err.Error()))
	problem := display.Clip(t.Shown[0].Action + ": " + display.WithoutLog(err.Error()))
	e := r.opt.Store.Update(func(tx *store.Tx) error {
		if t.At.Instance == "" {
			return tx.SetPoolProblem(t.At, problem)
		}
		i, err := tx.Instance(t.At.Instance)
		if err != nil || i.State == t.To && i.Problem != "" {
			return err
		}
		i.Problem = problem
		return tx.PutInstance(i)
	})
	if e != nil && !mvm.IsKind(e, mvm.KindNotFound) {
		r.opt.Log.Error("record problem", "target", t.At.String(), "error", e)
	}
}
