package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// waiter is somebody who waits until a tenant is as it should be.
type waiter struct {
	tenant string
	news   chan struct{} // has a value when a task ended

	telling  sync.Mutex // held while progress is told, which may take as long as its taker likes
	progress func(mvm.Progress)

	mu    sync.Mutex
	done  []mvm.PlanStep
	errs  []error
	notes map[string]bool
	left  []plan.Step // of the last look, that could not be begun
	short []string    // of the last look, what the quota does not let be
	alone []plan.Alone
}

// begun is told of a task at its begin.
func (w *waiter) begun(t *task) {
	for _, s := range t.Shown {
		w.say(mvm.Progress{Target: s.Target, Text: s.Action + ": " + s.Reason})
	}
}

// ended is told of a task at its end. It waits for nobody.
func (w *waiter) ended(t *task, err error) {
	w.mu.Lock()
	if err == nil {
		w.done = append(w.done, t.Shown...)
	} else {
		s := t.Shown[0]
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
	w.looks(p)
	for _, n := range p.Notes {
		w.note(n)
	}
	for _, s := range p.Steps {
		if shown := s.Display(); !s.After.IsZero() {
			w.note(shown.Action + " " + shown.Target + ": " + shown.Reason)
		}
	}
}

func (w *waiter) looks(p plan.Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.short, w.alone = p.Steps, p.Short, p.Alone
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
	w.telling.Lock()
	defer w.telling.Unlock()
	w.progress(p)
}

// told tells everyone who waits for the task's tenant of its end, which where it is to be
// done again is neither a success nor a failure. r.mu is held: who sees that a task is no
// longer there knows how it ended too.
func (r *Reconciler) told(t *task, err error, again bool) {
	for w := range r.waiters {
		switch {
		case w.tenant != t.At.Tenant:
		case again:
			w.wake()
		default:
			w.ended(t, err)
		}
	}
}

// tell calls fn for everyone who waits for the tenant.
func (r *Reconciler) tell(tenant string, fn func(*waiter)) {
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
func (r *Reconciler) progress(tenant string) func(mvm.Progress) {
	return func(p mvm.Progress) { r.tell(tenant, func(w *waiter) { w.say(p) }) }
}

// Operated is told of the end of the last operation in an instance's queue.
func (r *Reconciler) Operated(tenant string) {
	r.Poke(tenant)
	r.tell(tenant, (*waiter).wake)
}

// Converge makes passes over the tenant until it is as it should be, and returns the steps
// that were taken meanwhile. It waits for what is under way that reconcile began, or
// recovery, or that it has to come after, and for minimum times to pass. What failed, or can't be begun, is an error;
// the loop tries it again.
func (r *Reconciler) Converge(ctx context.Context, tenant string, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	w := &waiter{tenant: tenant, progress: progress, notes: map[string]bool{}, news: make(chan struct{}, 1)}
	r.mu.Lock()
	r.waiters[w] = true
	under := r.buildsOf(tenant)
	r.mu.Unlock()
	for _, p := range under { // it was told before the waiter came
		w.say(*p)
	}
	defer func() {
		r.mu.Lock()
		delete(r.waiters, w)
		r.mu.Unlock()
	}()
	r.Changed(tenant, "") // what failed before is tried now
	for {
		busy, err := r.look(ctx, w)
		if err != nil {
			return w.result(err)
		}
		var until time.Time
		if !busy {
			if until = w.deferredUntil(); until.IsZero() {
				return w.result(errors.Join(r.unfinished(ctx, w), w.leftAlone()))
			}
		}
		if err := r.await(ctx, w, until); err != nil {
			return w.result(err)
		}
		if err := r.opt.Seam("reconcile.news:before", tenant); err != nil {
			return w.result(err)
		}
	}
}

// buildsOf are the builds that the tenant's tasks wait for. r.mu is held.
func (r *Reconciler) buildsOf(tenant string) (out []*mvm.Progress) {
	for _, o := range r.objects {
		if o.at.Tenant == tenant && o.busy() {
			if p := o.task.about.Load(); p != nil {
				out = append(out, p)
			}
		}
	}
	return out
}

// look makes passes over the tenant until there is nothing to begin now. busy: something
// is under way, of whose end the waiter has news.
func (r *Reconciler) look(ctx context.Context, w *waiter) (busy bool, err error) {
	for {
		w.seen()
		w.looks(plan.Plan{}) // a tenant that is gone has nothing left
		before, err := r.recovering(w.tenant)
		if err == nil {
			err = r.pass(ctx, w.tenant)
		}
		if err != nil {
			return false, err
		}
		// What ended while the pass went on may be why it could not begin something.
		now, err := r.recovering(w.tenant)
		if err != nil || r.busy(w.tenant) || now || r.awaitsOthers(w) {
			return true, err
		}
		if !before && !w.seen() {
			return false, nil
		}
	}
}

// awaitsOthers reports that a step can't be begun before an operation ends that somebody
// else has under way.
func (r *Reconciler) awaitsOthers(w *waiter) bool {
	queued := r.opt.Queue.Queued()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.left, func(s plan.Step) bool {
		_, on := queued[s.Target.Instance]
		return on && s.AfterOp
	})
}

// deferredUntil is when the first minimum time ends that a step waits for, zero where
// none does, or something failed.
func (w *waiter) deferredUntil() (first time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) > 0 {
		return first
	}
	for _, s := range w.left {
		if !s.After.IsZero() && (first.IsZero() || s.After.Before(first)) {
			first = s.After
		}
	}
	return first
}

// unfinished is what keeps the tenant from being as it should be, beside the failures
// that the waiter saw itself; nil where nothing does.
func (r *Reconciler) unfinished(ctx context.Context, w *waiter) error {
	w.mu.Lock()
	left, short, failed := w.left, w.short, len(w.errs) > 0
	w.mu.Unlock()
	problems, err := r.problems(ctx, w.tenant, failed)
	if err != nil || len(problems) > 0 {
		return errors.Join(append(problems, err)...)
	}
	switch {
	case failed:
		return nil
	case len(left) == 0 && len(short) > 0:
		return mvm.Errorf(mvm.KindQuota, "apply %s: the desired state is not reached: %s", w.tenant, strings.Join(short, "; ")).
			WithFix("raise the quota, or ask for less; the agent has done what the quota allows")
	case len(left) == 0:
		return nil
	}
	s := left[0].Display()
	return mvm.Errorf(mvm.KindState, "apply %s: incomplete: %s %s: %s", w.tenant, s.Action, s.Target, s.Reason).
		WithFix("the agent continues when nothing blocks it; see `mvm ps` for the cause")
}

// leftAlone is what a person's changes keep back; nil where that is nothing.
func (w *waiter) leftAlone() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return plan.LeftAlone(w.alone)
}

// maxQuoted is of how many instances an error has lines of the log: each costs a question.
const maxQuoted = 3

// problems are what is wrong with the tenant's pools by their records, and with those of
// its instances that run and do not serve. known: failures were told of already, and only
// what nothing failed with is looked for.
func (r *Reconciler) problems(ctx context.Context, tenant string, known bool) (out []error, err error) {
	o, err := r.read(tenant)
	if err != nil {
		return nil, err
	}
	add := func(at mvm.Address, problem string) {
		if problem != "" {
			out = append(out, mvm.Errorf(mvm.KindUnavailable, "apply %s: %s has a problem: %s", tenant, at, problem).
				WithFix("fix the cause; the agent retries by itself"))
		}
	}
	for _, p := range o.Pools {
		add(p.Address(), p.Unpublished)
		if !known {
			add(p.Address(), p.Problem)
		}
	}
	quoted := 0
	for _, i := range o.Instances {
		if known || i.State != mvm.StateRunning || i.Key != "" && i.Ready { // what its user did is not the deployment's
			continue
		}
		if s := r.opt.Instances.GaveUp(i); s != nil {
			quoted++
			out = append(out, r.opt.Instances.ServiceError(ctx, fmt.Sprintf("apply %s: %s is not as it should be", tenant, i.Address()), i, *s, quoted <= maxQuoted))
		} else if !i.Ready {
			add(i.Address(), i.Problem)
		}
	}
	return out, nil
}

// Problems are what is wrong with the tenant now, which no step of a plan mends.
func (r *Reconciler) Problems(ctx context.Context, tenant string) ([]error, error) {
	return r.problems(ctx, tenant, false)
}

// await waits for news, or until the time where it is not zero. An end that is there
// already comes before them, so that who gave up is not kept for as long as there are any.
func (r *Reconciler) await(ctx context.Context, w *waiter, until time.Time) error {
	var due <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		due = t.C
	}
	if ctx.Err() == nil && r.life.Err() == nil {
		select {
		case <-w.news:
			return nil
		case <-due:
			return nil
		case <-r.life.Done():
		case <-ctx.Done():
		}
	}
	if r.life.Err() != nil {
		return errClosing
	}
	return mvm.Errorf(mvm.KindCanceled, "apply %s: %w", w.tenant, context.Cause(ctx)).
		WithFix("the agent continues; run the command again to wait for it")
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

// result is what Converge returns. What is told from then on goes nowhere.
func (w *waiter) result(err error) ([]mvm.PlanStep, error) {
	w.telling.Lock()
	w.progress = func(mvm.Progress) {}
	w.telling.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && len(w.errs) == 1 {
		return w.done, w.errs[0]
	}
	return w.done, errors.Join(append(w.errs, err)...)
}

// recovering reports that an operation is under way that the agent took up after a
// restart.
func (r *Reconciler) recovering(tenant string) (on bool, err error) {
	queued := r.opt.Queue.Queued()
	err = r.opt.Store.View(func(tx *store.Tx) error {
		for id, req := range queued {
			if !req.Recovery {
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
func (r *Reconciler) busy(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.objects {
		if o.at.Tenant == tenant && o.busy() {
			return true
		}
	}
	return false
}
