package agent

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

// task is what reconcile does with one object: the steps of a plan that are about it.
type task struct {
	key   string // of its object
	at    mvm.Address
	role  mvm.Role
	kind  plan.Kind
	ops   []mvm.OpKind // on the instance, in order
	to    mvm.State
	shown []mvm.PlanStep
	after time.Time // not before
	limit string
	// awaitsBuild: it is for nothing before the pool's image is built.
	awaitsBuild bool
	// afterOp: an operation that is under way comes first.
	afterOp bool
	// parked: when it is warm again, it rests as before.
	parked bool
	// opened: the instance runs, and only its services are waited for.
	opened atomic.Bool
}

// rises reports that the instance runs at some time of the task.
func (t *task) rises() bool {
	for _, op := range t.ops {
		if up(op) {
			return true
		}
	}
	return t.kind == plan.CreateInstance
}

// tasksOf groups a plan's steps by the object that they are about, in the plan's order.
func (a *Agent) tasksOf(p plan.Plan, roles map[string]mvm.Role) []*task {
	var out []*task
	by := map[string]*task{}
	for _, s := range p.Steps {
		t := &task{at: s.Target, role: roles[s.Target.Pool], kind: s.Kind, after: s.After, limit: s.Limit, awaitsBuild: s.AwaitsBuild, afterOp: s.AfterOp, parked: s.Parked,
			shown: []mvm.PlanStep{s.Display()}}
		switch s.Kind {
		case plan.Operate:
			t.key, t.ops, t.to = s.Target.Instance, []mvm.OpKind{s.Op}, s.Op.Leads("")
		case plan.Restart:
			t.key, t.ops, t.to = s.Target.Instance, restartOps(s.To), s.To
		case plan.CreateInstance:
			t.key, t.ops, t.to = s.Target.String()+"#new", createOps(s.To), s.To
			out = append(out, t)
			continue
		case plan.BuildPool:
			t.key = s.Target.String()
		default:
			continue
		}
		if have := by[t.key]; have == nil {
			by[t.key] = t
			out = append(out, t)
		} else if have.kind == plan.Operate && t.kind == plan.Operate && t.after.IsZero() {
			have.ops, have.to, have.shown = append(have.ops, t.ops...), t.to, append(have.shown, t.shown...)
		}
	}
	return out
}

func restartOps(to mvm.State) []mvm.OpKind {
	ops := []mvm.OpKind{mvm.OpStop, mvm.OpStart}
	if to == mvm.StateWarm {
		ops = append(ops, mvm.OpWarm)
	}
	return ops
}

func createOps(to mvm.State) []mvm.OpKind {
	ops := []mvm.OpKind{mvm.OpCreate, mvm.OpStart}
	switch to {
	case mvm.StateWarm:
		ops = append(ops, mvm.OpWarm)
	case mvm.StateSleeping:
		ops = append(ops, mvm.OpSleep)
	}
	return ops
}

// begin makes the task its object's and runs it. The making of an instance is on
// record before it returns, so that the next pass counts it.
func (r *reconciler) begin(t *task) error {
	if t.kind == plan.CreateInstance {
		i, err := r.newInstance(t)
		if err != nil {
			r.end(t, err)
			return err
		}
		r.made(t)
		t.at, t.key = i.Address(), i.ID
	}
	r.mu.Lock()
	o := r.objects[t.key]
	if o == nil {
		o = &object{at: t.at, role: t.role}
		r.objects[t.key] = o
	}
	o.task, o.to = t, t.to
	r.mu.Unlock()
	r.tell(t.at.Tenant, func(w *waiter) { w.begun(t) })
	if !r.a.goTracked(func() { r.run(t) }) {
		r.end(t, errClosing)
	}
	return nil
}

func (r *reconciler) newInstance(t *task) (i mvm.Instance, err error) {
	err = r.a.store.Update(func(tx *store.Tx) error {
		op := mvm.Op{Kind: mvm.OpCreate, By: byReconcile(), Why: t.shown[0].Reason, Started: time.Now()}
		i, err = r.a.newInstance(tx, t.at.Tenant, t.at.Pool, "", op)
		return err
	})
	if err != nil {
		r.a.quotaEvent(asReconcile(r.a.ctx), t.at.Tenant, t.at.Pool, err)
		return i, err
	}
	r.a.net.changed()
	return i, nil
}

// made forgets that no instance could be made in the pool.
func (r *reconciler) made(t *task) {
	r.mu.Lock()
	o := r.objects[t.key]
	delete(r.objects, t.key)
	r.mu.Unlock()
	if o == nil {
		return
	}
	if err := r.a.store.Update(func(tx *store.Tx) error { return setPoolProblem(tx, t.at, "") }); err != nil {
		r.a.log.Error("clear problem", "pool", t.at.String(), "error", err)
	}
}

// run does the task and notes its end.
func (r *reconciler) run(t *task) {
	ended := false
	defer func() {
		if !ended { // the goroutine was ended from within, as a test's crash does
			r.end(t, errClosing)
		}
	}()
	ctx := asReconcile(r.a.ctx)
	err := r.a.opt.Seam("reconcile.task:before", t.key)
	switch {
	case err != nil:
	case t.kind == plan.BuildPool:
		err = r.build(ctx, t)
	default:
		err = r.operate(ctx, t)
	}
	if err != nil && t.kind == plan.CreateInstance {
		// The intent is on record: it is finished also where nobody needs the instance now.
		r.a.unsettled.Set(t.at.Instance, true)
	}
	ended = true
	r.end(t, err)
}

func (r *reconciler) build(ctx context.Context, t *task) error {
	release, err := wait.Slot(ctx, r.builds)
	if err != nil {
		return err
	}
	defer release()
	_, err = r.a.BuildPool(ctx, t.at.Tenant, t.at.Pool, r.progress(t.at.Tenant))
	return err
}

// changedByHand reports that a person has changed the instance lately.
func (r *reconciler) changedByHand(id string) bool {
	i, err := r.a.Instance(r.a.ctx, mvm.Address{Instance: id})
	return err == nil && i.ManualOverrideUntil.After(time.Now())
}

// operate walks the instance through the task's operations. A slot is held until it
// runs: to wait for its services takes nothing.
func (r *reconciler) operate(ctx context.Context, t *task) error {
	for n, op := range t.ops {
		if n > 0 && r.changedByHand(t.at.Instance) {
			return mvm.Errorf(mvm.KindState, "%s: a person has changed it meanwhile: %w", t.at, errGivenUp)
		}
		release, err := wait.Slot(ctx, r.slots)
		if err != nil {
			return err
		}
		req := request{op: op, by: byReconcile(), why: t.shown[0].Reason, parks: t.parked, opened: func() {
			t.opened.Store(true)
			release()
			r.poke(t.at.Tenant)
		}}
		_, err = r.a.submit(ctx, t.at.Instance, req, r.progress(t.at.Tenant))
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
func (r *reconciler) end(t *task, err error) {
	gone := r.isGone(t, err)
	gaveWay := errors.Is(err, errGivenUp) || errors.Is(err, errWakeArrived) || r.a.ctx.Err() != nil
	forget := gaveWay || gone
	now := time.Now()
	r.mu.Lock()
	o := r.objects[t.key]
	if o == nil {
		o = &object{at: t.at, role: t.role, to: t.to}
		r.objects[t.key] = o
	}
	o.settled, o.retry = now, time.Time{}
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
		delete(r.objects, t.key)
	}
	r.told(t, err)
	r.mu.Unlock()
	if !retry.IsZero() {
		r.pokeAt(t.at.Tenant, retry)
	}
	r.poke(t.at.Tenant)
}

// isGone reports that the task failed because its instance is not there any more, and
// not because something else is missing, such as its image.
func (r *reconciler) isGone(t *task, err error) bool {
	if t.at.Instance == "" || !mvm.IsKind(err, mvm.KindNotFound) {
		return false
	}
	_, err = r.a.Instance(r.a.ctx, mvm.Address{Instance: t.at.Instance})
	return mvm.IsKind(err, mvm.KindNotFound)
}

// report makes a failure visible: in the log, and on the record of what failed.
func (r *reconciler) report(t *task, err error, fails int, wait time.Duration) {
	level := slog.LevelWarn
	if mvm.IsKind(err, mvm.KindQuota) {
		level = slog.LevelInfo
	}
	r.a.log.Log(r.a.ctx, level, "reconcile failed", "target", t.at.String(), "action", t.shown[0].Action,
		"failures", fails, "again_in", wait.Round(time.Second).String(), "error", display.WithoutLog(err.Error()))
	problem := display.Clip(t.shown[0].Action + ": " + display.WithoutLog(err.Error()))
	e := r.a.store.Update(func(tx *store.Tx) error {
		if t.at.Instance == "" {
			return setPoolProblem(tx, t.at, problem)
		}
		i, err := tx.Instance(t.at.Instance)
		if err != nil || i.State == t.to && i.Problem != "" {
			return err
		}
		i.Problem = problem
		return tx.PutInstance(i)
	})
	if e != nil && !mvm.IsKind(e, mvm.KindNotFound) {
		r.a.log.Error("record problem", "target", t.at.String(), "error", e)
	}
}

// setPoolProblem says on the pool's record what is wrong; empty: nothing is.
func setPoolProblem(tx *store.Tx, at mvm.Address, problem string) error {
	p, err := tx.Pool(at.Tenant, at.Pool)
	if err != nil || p.Problem == problem {
		return err
	}
	p.Problem = problem
	return tx.PutPool(p)
}
