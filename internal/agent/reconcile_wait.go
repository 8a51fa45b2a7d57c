package agent

import (
	"context"
	"errors"
	"sync"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// waiter is somebody who waits until a tenant is as it should be.
type waiter struct {
	tenant   string
	progress func(mvm.Progress)

	mu    sync.Mutex
	done  []mvm.PlanStep
	errs  []error
	notes map[string]bool
	news  chan struct{} // has a value when a task ended
}

// begun is told of a task at its begin.
func (w *waiter) begun(t *task) {
	for _, s := range t.shown {
		w.say(mvm.Progress{Target: s.Target, Text: s.Action + ": " + s.Reason})
	}
}

// ended is told of a task at its end.
func (w *waiter) ended(t *task, err error) {
	w.mu.Lock()
	if err == nil {
		w.done = append(w.done, t.shown...)
	} else {
		s := t.shown[0]
		w.errs = append(w.errs, mvm.Errorf(mvm.KindOf(err), "apply %s: %s %s: %w", w.tenant, s.Action, s.Target, err))
	}
	w.mu.Unlock()
	w.wake()
}

// wake has the waiter look again.
func (w *waiter) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// passed is told of the plan whose tasks are under way, or can't be begun now.
func (w *waiter) passed(p plan.Plan) {
	for _, n := range p.Notes {
		w.note(n)
	}
	for _, s := range p.Steps {
		if shown := s.Display(); !s.After.IsZero() {
			w.note(shown.Action + " " + shown.Target + ": " + shown.Reason)
		}
	}
}

// note tells something once.
func (w *waiter) note(text string) {
	w.mu.Lock()
	known := w.notes[text]
	w.notes[text] = true
	w.mu.Unlock()
	if !known {
		w.say(mvm.Progress{Target: w.tenant, Text: text})
	}
}

func (w *waiter) say(p mvm.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress(p)
}

// wake has everyone who waits for the tenant look again. r.mu is held: who sees that a
// task is no longer there has its news too.
func (r *reconciler) wake(tenant string) {
	for w := range r.waiters {
		if w.tenant == tenant {
			w.wake()
		}
	}
}

// tell calls fn for everyone who waits for the tenant.
func (r *reconciler) tell(tenant string, fn func(*waiter)) {
	r.mu.Lock()
	var all []*waiter
	for w := range r.waiters {
		if w.tenant == tenant {
			all = append(all, w)
		}
	}
	r.mu.Unlock()
	for _, w := range all {
		fn(w)
	}
}

// progress passes on what operations of the tenant's instances say.
func (r *reconciler) progress(tenant string) func(mvm.Progress) {
	return func(p mvm.Progress) { r.tell(tenant, func(w *waiter) { w.say(p) }) }
}

// operated is told of the end of the last operation in an instance's queue.
func (r *reconciler) operated(tenant string) {
	r.poke(tenant)
	r.tell(tenant, (*waiter).wake)
}

// settle makes passes over the tenant until nothing is under way that reconcile began,
// or recovery, and returns the steps that were taken meanwhile. What failed is tried again by the
// loop; what has to wait for a minimum time is told of, and not waited for.
func (r *reconciler) settle(ctx context.Context, tenant string, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	w := &waiter{tenant: tenant, progress: progress, notes: map[string]bool{}, news: make(chan struct{}, 1)}
	r.mu.Lock()
	r.waiters[w] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiters, w)
		r.mu.Unlock()
	}()
	r.changed(tenant, "") // what failed before is tried now
	for {
		w.seen()
		before, err := r.recovering(tenant)
		if err == nil {
			err = r.pass(ctx, tenant)
		}
		if err != nil {
			return w.result(err)
		}
		// What ended while the pass went on may be why it could not begin something.
		now, err := r.recovering(tenant)
		switch busy := r.busy(tenant); {
		case err != nil:
			return w.result(err)
		case !busy && !now && (before || w.seen()):
			continue
		case !busy && !now:
			return w.result(nil)
		}
		if err := r.await(ctx, w); err != nil {
			return w.result(err)
		}
		if err := r.a.opt.Seam("reconcile.news:before", tenant); err != nil {
			return w.result(err)
		}
	}
}

// await waits for news. An end that is there already comes before them, so that who
// gave up is not kept for as long as there are any.
func (r *reconciler) await(ctx context.Context, w *waiter) error {
	if ctx.Err() == nil && r.a.ctx.Err() == nil {
		select {
		case <-w.news:
			return nil
		case <-r.a.ctx.Done():
		case <-ctx.Done():
		}
	}
	if r.a.ctx.Err() != nil {
		return errClosing
	}
	return mvm.Errorf(mvm.KindCanceled, "apply %s: %w", w.tenant, context.Cause(ctx)).
		WithFix("the agent goes on with it; run it again to wait for its end")
}

// seen reports whether there was news, and takes it away.
func (w *waiter) seen() bool {
	select {
	case <-w.news:
		return true
	default:
		return false
	}
}

// result is what settle returns. What is told from then on goes nowhere.
func (w *waiter) result(err error) ([]mvm.PlanStep, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress = func(mvm.Progress) {}
	if err == nil && len(w.errs) == 1 {
		return w.done, w.errs[0]
	}
	return w.done, errors.Join(append(w.errs, err)...)
}

// recovering reports that an operation is under way that the agent took up after a
// restart.
func (r *reconciler) recovering(tenant string) (on bool, err error) {
	queued := r.a.queued()
	err = r.a.store.View(func(tx *store.Tx) error {
		for id, req := range queued {
			if req.by != askerAgent {
				continue
			}
			i, err := tx.Instance(id)
			if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
				return err
			}
			on = on || err == nil && i.Tenant == tenant
		}
		return nil
	})
	return on, err
}

// busy reports that a task of the tenant is under way.
func (r *reconciler) busy(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.objects {
		if o.at.Tenant == tenant && o.busy() {
			return true
		}
	}
	return false
}
