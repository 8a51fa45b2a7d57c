package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"mvm"
	"mvm/internal/idle"
	"mvm/internal/live"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// byAgent is who asks when the agent itself does.
func byAgent() mvm.Asker { return mvm.Asker{Kind: mvm.AskerAgent} }

// maxQueued bounds the operations that wait at one instance.
const maxQueued = 32

// errWakeArrived cancels a sleep that is not committed yet.
var errWakeArrived = errors.New("a wake arrived before it was committed")

// runner is the queue of one instance. It exists while it has jobs. The fields are
// guarded by Agent.mu.
type runner struct {
	id   string
	jobs []*job // jobs[0] is under way
}

// job is one operation that was asked for, and everyone who waits for it.
type job struct {
	req    request
	ctx    context.Context
	cancel context.CancelCauseFunc
	prog   progressFan
	// waiting: the instance runs and the job only waits for its services.
	waiting atomic.Bool

	// done is closed when inst and err are set.
	done chan struct{}
	inst mvm.Instance
	err  error
}

// request is an operation as somebody asked for it.
type request struct {
	op    mvm.OpKind
	by    mvm.Asker
	why   string
	force bool
	// id is that of the request that it is for; "" for none.
	id string
	// snapshot, for a restore, is the one that is brought back.
	snapshot string
	// ended, for a stop that nobody asked for: the VMM that ended by itself. When the
	// instance has another by the time, or none, there is nothing to do.
	ended *live.VMM
	// opened, where given, is called once the instance runs and only its services are
	// waited for.
	opened func()
	// idle, for what the policy wants, is what it rests on; nil otherwise.
	idle *idle.Grounds
	// awake, for a restart: only while the instance holds memory.
	awake bool
	// unproven, for a destroy: only while the instance is.
	unproven bool
	// finishes, where given, is the intent that was cut off and that this request finishes:
	// the instance's record names who asked then.
	finishes *mvm.Op
	// parks: an instance that it makes warm is parked, as it was before.
	parks bool
}

// errGivenUp is the cause by which an operation gives way to a later one.
var errGivenUp = errors.New("something else was asked for")

// up reports whether the operation leads to running.
func up(op mvm.OpKind) bool { return op.Rises() }

// joins reports whether a waiter of r is served as well by the job.
func (j *job) joins(r request) bool {
	if j.ctx.Err() != nil || j.req.ended != r.ended || (j.req.idle == nil) != (r.idle == nil) || j.req.unproven != r.unproven || j.req.parks != r.parks {
		return false
	}
	if r.op == mvm.OpStop && r.by.Kind.Person() && !j.req.by.Kind.Person() {
		return false // it says more: that the instance is to stay stopped
	}
	return j.req.op == r.op && j.req.force == r.force && j.req.awake == r.awake && j.req.snapshot == r.snapshot || up(j.req.op) && up(r.op) && r.op != mvm.OpResume
}

// giveWay ends the jobs that the request makes needless: a destroy all of them, others
// at most the last, which they come after.
func (r *runner) giveWay(req request) {
	jobs := r.jobs
	if req.op != mvm.OpDestroy {
		jobs = jobs[len(jobs)-1:]
	}
	for _, j := range jobs {
		j.giveWay(req)
	}
}

// giveWay ends the job early where the request that comes after it makes it needless.
func (j *job) giveWay(r request) {
	switch {
	case r.op == mvm.OpRestore: // it is refused of what runs
	case r.ended != nil: // the job sees by itself that its VMM ended
	case up(r.op) && (j.req.op == mvm.OpSleep || j.req.idle != nil):
		j.cancel(errWakeArrived)
	case r.op == mvm.OpDestroy, r.op == mvm.OpStop && (up(j.req.op) || j.req.op == mvm.OpRestart), !up(r.op) && j.waiting.Load():
		j.cancel(mvm.Errorf(mvm.KindState, "%s was given up for %s: %w", j.req.op, r.op, errGivenUp))
	}
}

// submit queues the operation, or joins one that is there, and waits until it is
// done or ctx ends. The operation itself goes on when ctx ends. A request to run what
// runs already is no operation: see runs.
func (a *Agent) submit(ctx context.Context, id string, req request, progress func(mvm.Progress)) (mvm.Instance, error) {
	req.id = mvm.RequestFrom(ctx)
	if i, ok := a.runs(id, req); ok {
		return i, nil
	}
	// Reconcile has pauses of its own, and a person is obeyed at once.
	if up(req.op) && req.by.Kind.OnDemand() {
		if err := a.wakeFaults.check(id); err != nil {
			return mvm.Instance{}, err
		}
	}
	j, err := a.enqueue(id, req)
	if err != nil {
		return mvm.Instance{}, err
	}
	defer j.prog.add(progress)()
	if err := wait.Done(ctx, j.done); err != nil {
		return mvm.Instance{}, mvm.Errorf(mvm.KindCanceled, "wait for %s of %s: %w", req.op, id, err).
			WithFix("the agent continues the operation")
	}
	return j.inst, j.err
}

// runs reports whether the request asks for a running instance and the instance runs, is
// ready (or its services are waited for no more), and is about to be nothing else: then there is nothing to do. It takes no place
// in the queue. The record is read twice: if it is the same before and after the look at
// the queue, no operation ran in between.
func (a *Agent) runs(id string, req request) (mvm.Instance, bool) {
	if !up(req.op) {
		return mvm.Instance{}, false
	}
	serves := func() (i mvm.Instance, ok bool) {
		err := a.store.View(func(tx *store.Tx) (err error) {
			i, err = tx.Instance(id)
			return err
		})
		return i, err == nil && i.State == mvm.StateRunning && (i.Ready || i.Problem != "") && i.Op == nil && !i.Parked
	}
	was, ok := serves()
	if !ok || !a.undisturbed(id) || a.live.Stalled(id) != "" {
		return mvm.Instance{}, false
	}
	if a.health.GaveUp(was) != nil && !(was.Ready && req.by.Kind.OnDemand()) { // who asks is told which service failed
		return mvm.Instance{}, false
	}
	now, ok := serves()
	return now, ok && now.Changed.Equal(was.Changed)
}

// undisturbed reports that the instance has a VMM that has not ended, and no operation
// under way or waiting.
func (a *Agent) undisturbed(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.runners[id] == nil && !a.closed && a.live.Of(id).Runs()
}

func (a *Agent) enqueue(id string, req request) (*job, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, errClosing
	}
	r := a.runners[id]
	if r == nil {
		r = &runner{id: id}
		a.runners[id] = r
	}
	if n := len(r.jobs); n > 0 {
		if last := r.jobs[n-1]; last.joins(req) {
			if req.id != last.req.id {
				a.log.Debug("request joins an operation", "instance", id, "op", last.req.op, "request", req.id, "joined", last.req.id)
			}
			return last, nil
		}
		if n >= maxQueued {
			return nil, mvm.Errorf(mvm.KindUnavailable, "%s %s: already %d operations wait", req.op, id, n)
		}
		r.giveWay(req)
	}
	j := &job{req: req, done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(mvm.WithRequest(a.ctx, req.id))
	r.jobs = append(r.jobs, j)
	if len(r.jobs) == 1 {
		a.wg.Go(func() { a.drainQueue(r) })
	}
	return j, nil
}

// leavesHalfDone reports that the job, which failed, may have left something half done: also
// where the instance could not be looked at.
func leavesHalfDone(j *job) bool {
	unknown := j.inst.ID == "" && !mvm.IsKind(j.err, mvm.KindNotFound)
	return unknown || j.inst.Op != nil || j.inst.State.HoldsMemory()
}

// drainQueue runs the jobs of one instance until there are none.
func (a *Agent) drainQueue(r *runner) {
	for more := true; more; {
		a.mu.Lock()
		j := r.jobs[0]
		a.mu.Unlock()

		j.inst, j.err = a.perform(j, r.id)
		if j.err != nil && leavesHalfDone(j) {
			a.halfDone.Set(r.id, true)
		}
		j.cancel(nil)

		// The runner goes in the same turn as its last job: an enqueue either still
		// finds the job there, or begins anew.
		a.mu.Lock()
		r.jobs = r.jobs[1:]
		if more = len(r.jobs) > 0; !more {
			delete(a.runners, r.id)
		}
		a.mu.Unlock()
		close(j.done)
		if t := j.inst.Tenant; !more && t != "" {
			a.reconciler.Operated(t)
		}
		a.idle.Poke()
	}
}

// progressFan passes progress on to everyone who waits for a job.
type progressFan struct {
	mu   sync.Mutex
	next int
	subs map[int]func(mvm.Progress)
}

// add subscribes fn (nil is fine) and returns what ends it.
func (p *progressFan) add(fn func(mvm.Progress)) (remove func()) {
	if fn == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subs == nil {
		p.subs = map[int]func(mvm.Progress){}
	}
	n := p.next
	p.next++
	p.subs[n] = fn
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.subs, n)
	}
}

func (p *progressFan) send(v mvm.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fn := range p.subs {
		fn(v)
	}
}

// Queued counts the operations of an instance that wait or are under way, and says
// which is under way.
func (a *Agent) Queued(id string) (int, mvm.OpKind) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.runners[id]
	if r == nil || len(r.jobs) == 0 {
		return 0, ""
	}
	return len(r.jobs), r.jobs[0].req.op
}
