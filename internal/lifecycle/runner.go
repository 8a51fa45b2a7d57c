package lifecycle

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
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
// guarded by Lifecycle.mu.
type runner struct {
	id   string
	jobs []*Job // jobs[0] is under way
}

// Job is one operation that was asked for, and everyone who waits for it.
type Job struct {
	req    Request
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

// Request is an operation as somebody asked for it.
type Request struct {
	Op    mvm.OpKind
	By    mvm.Asker
	Why   string
	Force bool
	// id is that of the request that it is for; "" for none.
	id string
	// Snapshot, for a restore, is the one that is brought back.
	Snapshot string
	// Ended, for a stop that nobody asked for: the VMM that ended by itself. When the
	// instance has another by the time, or none, there is nothing to do.
	Ended VMM
	// Opened, where given, is called once the instance runs and only its services are
	// waited for.
	Opened func()
	// Idle, for what the policy wants, is what it rests on; nil otherwise.
	Idle *Grounds
	// Awake, for a restart: only while the instance holds memory.
	Awake bool
	// Unproven, for a destroy: only while the instance is.
	Unproven bool
	// Finishes, where given, is the intent that was cut off and that this request finishes:
	// the instance's record names who asked then.
	Finishes *mvm.Op
	// Parks: an instance that it makes warm is parked, as it was before.
	Parks bool
	// apart is what is done in place of an operation; see Apart.
	apart func(mvm.Instance)
}

// opApart changes no instance: something is done while no operation does.
const opApart mvm.OpKind = "check"

// Grounds are what the idle policy's decision rests on: its operation is called off when they
// do not hold any more.
type Grounds struct {
	Changed time.Time // when the instance came to the state that was decided on
	Since   time.Time // when it became idle
	Mute    bool      // its guest has not answered for so long that its word does not count
}

// errGivenUp is the cause by which an operation gives way to a later one.
var errGivenUp = errors.New("something else was asked for")

// up reports whether the operation leads to running.
func up(op mvm.OpKind) bool { return op.Rises() }

// joins reports whether a waiter of r is served as well by the job.
func (j *Job) joins(r Request) bool {
	if j.ctx.Err() != nil || j.req.apart != nil || r.apart != nil || j.req.Ended != r.Ended || (j.req.Idle == nil) != (r.Idle == nil) || j.req.Unproven != r.Unproven || j.req.Parks != r.Parks {
		return false
	}
	if r.Op == mvm.OpStop && r.By.Kind.Person() && !j.req.By.Kind.Person() {
		return false // it says more: that the instance is to stay stopped
	}
	return j.req.Op == r.Op && j.req.Force == r.Force && j.req.Awake == r.Awake && j.req.Snapshot == r.Snapshot || up(j.req.Op) && up(r.Op) && r.Op != mvm.OpResume
}

// giveWay ends the jobs that the request makes needless: a destroy all of them, others
// at most the last, which they come after.
func (r *runner) giveWay(req Request) {
	jobs := r.jobs
	if req.Op != mvm.OpDestroy {
		jobs = jobs[len(jobs)-1:]
	}
	for _, j := range jobs {
		j.giveWay(req)
	}
}

// giveWay ends the job early where the request that comes after it makes it needless.
func (j *Job) giveWay(r Request) {
	switch {
	case r.Op == mvm.OpRestore: // it is refused of what runs
	case r.Op == opClock:
	case r.Ended != nil: // the job sees by itself that its VMM ended
	case up(r.Op) && (j.req.Op == mvm.OpSleep || j.req.Idle != nil):
		j.cancel(errWakeArrived)
	case r.Op == mvm.OpDestroy, r.Op == mvm.OpStop && (up(j.req.Op) || j.req.Op == mvm.OpRestart), !up(r.Op) && j.waiting.Load():
		j.cancel(mvm.Errorf(mvm.KindState, "%s was given up for %s: %w", j.req.Op, r.Op, errGivenUp))
	}
}

// Submit queues the operation, or joins one that is there, and waits until it is
// done or ctx ends. The operation itself goes on when ctx ends. A request to run what
// runs already is no operation: see runs.
func (l *Lifecycle) Submit(ctx context.Context, id string, req Request, progress func(mvm.Progress)) (mvm.Instance, error) {
	req.id = mvm.RequestFrom(ctx)
	if i, ok := l.runs(id, req); ok {
		return i, nil
	}
	// Reconcile has pauses of its own, and a person is obeyed at once.
	if up(req.Op) && req.By.Kind.OnDemand() {
		if err := l.wakeFaults.check(id); err != nil {
			return mvm.Instance{}, err
		}
	}
	j, err := l.Enqueue(id, req)
	if err != nil {
		return mvm.Instance{}, err
	}
	defer j.prog.add(progress)()
	if err := wait.Done(ctx, j.done); err != nil {
		return mvm.Instance{}, mvm.Errorf(mvm.KindCanceled, "wait for %s of %s: %w", req.Op, id, err).
			WithFix("the agent continues the operation")
	}
	return j.inst, j.err
}

// runs reports whether the request asks for a running instance and the instance runs, is
// ready (or its services are waited for no more), and is about to be nothing else: then there is nothing to do. It takes no place
// in the queue. The record is read twice: if it is the same before and after the look at
// the queue, no operation ran in between.
func (l *Lifecycle) runs(id string, req Request) (mvm.Instance, bool) {
	if !up(req.Op) {
		return mvm.Instance{}, false
	}
	serves := func() (i mvm.Instance, ok bool) {
		err := l.store.View(func(tx *store.Tx) (err error) {
			i, err = tx.Instance(id)
			return err
		})
		return i, err == nil && i.State == mvm.StateRunning && (i.Ready || i.Problem != "") && i.Op == nil && !i.Parked
	}
	was, ok := serves()
	if !ok || !l.undisturbed(id) || l.opt.VMMs.Stalled(id) != "" {
		return mvm.Instance{}, false
	}
	if l.opt.Health.GaveUp(was) != nil && !(was.Ready && req.By.Kind.OnDemand()) { // who asks is told which service failed
		return mvm.Instance{}, false
	}
	now, ok := serves()
	return now, ok && now.Changed.Equal(was.Changed)
}

// undisturbed reports that the instance has a VMM that has not ended, and no operation
// under way or waiting.
func (l *Lifecycle) undisturbed(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runners[id] == nil && !l.closed && l.opt.VMMs.Lives(id)
}

// Enqueue queues the operation, or joins one that is there. It does not wait.
func (l *Lifecycle) Enqueue(id string, req Request) (*Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosing
	}
	r := l.runners[id]
	if r == nil {
		r = &runner{id: id}
		l.runners[id] = r
	}
	if n := len(r.jobs); n > 0 {
		if last := r.jobs[n-1]; last.joins(req) {
			if req.id != last.req.id {
				l.log.Debug("request joins an operation", "instance", id, "op", last.req.Op, "request", req.id, "joined", last.req.id)
			}
			return last, nil
		}
		if n >= maxQueued {
			return nil, mvm.Errorf(mvm.KindUnavailable, "%s %s: already %d operations wait", req.Op, id, n)
		}
		r.giveWay(req)
	}
	j := &Job{req: req, done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(mvm.WithRequest(l.life, req.id))
	r.jobs = append(r.jobs, j)
	if len(r.jobs) == 1 {
		l.group.Go(func() { l.drainQueue(r) })
	}
	return j, nil
}

// Apart calls fn with the record of the instance while no operation of it is under way, and
// waits until fn has returned or ctx ends. Where an operation is under way or half done, or the
// instance is gone, fn is not called. Operations that come meanwhile wait, so fn is short.
func (l *Lifecycle) Apart(ctx context.Context, id string, fn func(mvm.Instance)) error {
	if n, _ := l.Queued(id); n > 0 {
		return nil
	}
	j, err := l.Enqueue(id, Request{Op: opApart, By: byAgent(), apart: fn})
	if err != nil {
		return err
	}
	return wait.Done(ctx, j.done)
}

// apart is what a job of Apart does.
func (l *Lifecycle) apart(j *Job, id string) mvm.Instance {
	var i mvm.Instance
	err := l.store.View(func(tx *store.Tx) (err error) {
		i, err = tx.Instance(id)
		return err
	})
	if err == nil && i.Op == nil && j.ctx.Err() == nil {
		j.req.apart(i)
	}
	return i
}

// Redo queues an operation of an instance that is recovered, in the agent's own name. One
// that rises finishes the rise that i's intent was, if any.
func (l *Lifecycle) Redo(i mvm.Instance, op mvm.OpKind) error {
	req := Request{Op: op, By: byAgent(), Why: "taken up after a restart of the agent"}
	if i.Op != nil && i.Op.Kind.Rises() && op.Rises() {
		req.Finishes = i.Op
	}
	_, err := l.Enqueue(i.ID, req)
	return err
}

// Repair queues what brings an instance that is recovered to how its record says it is.
func (l *Lifecycle) Repair(i mvm.Instance) error { return l.Redo(i, opRepair) }

// leavesHalfDone reports that the job, which failed, may have left something half done: also
// where the instance could not be looked at.
func leavesHalfDone(j *Job) bool {
	unknown := j.inst.ID == "" && !mvm.IsKind(j.err, mvm.KindNotFound)
	return unknown || j.inst.Op != nil || j.inst.State.HoldsMemory()
}

// drainQueue runs the jobs of one instance until there are none.
func (l *Lifecycle) drainQueue(r *runner) {
	for more := true; more; {
		l.mu.Lock()
		j := r.jobs[0]
		l.mu.Unlock()

		j.inst, j.err = l.perform(j, r.id)
		if j.err != nil && leavesHalfDone(j) {
			l.halfDone.Set(r.id, true)
		}
		j.cancel(nil)

		// The runner goes in the same turn as its last job: an enqueue either still
		// finds the job there, or begins anew.
		l.mu.Lock()
		r.jobs = r.jobs[1:]
		if more = len(r.jobs) > 0; !more {
			delete(l.runners, r.id)
		}
		l.mu.Unlock()
		close(j.done)
		if t := j.inst.Tenant; !more && t != "" {
			l.opt.Reconcile.Operated(t)
		}
		l.opt.Idle.Poke()
		l.opt.Schedule.Changed(j.inst)
	}
}

// progressFan passes progress on to everyone who waits for a job.
type progressFan struct {
	mu   sync.Mutex
	next int
	subs map[int]func(mvm.Progress)
	last mvm.Progress
}

// add subscribes fn (nil is fine) and returns what ends it. fn is told at once how far the
// job is.
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
	if p.last != (mvm.Progress{}) {
		fn(p.last)
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.subs, n)
	}
}

func (p *progressFan) send(v mvm.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = v
	for _, fn := range p.subs {
		fn(v)
	}
}

// Queued counts the operations of an instance that wait or are under way, and says
// which is under way.
func (l *Lifecycle) Queued(id string) (int, mvm.OpKind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runners[id]
	if r == nil || len(r.jobs) == 0 {
		return 0, ""
	}
	return len(r.jobs), r.jobs[0].req.Op
}

// Last are the last requests of the instances that have an operation under way or waiting.
func (l *Lifecycle) Last() map[string]Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]Request, len(l.runners))
	for id, q := range l.runners {
		if n := len(q.jobs); n > 0 {
			out[id] = q.jobs[n-1].req
		}
	}
	return out
}

// Done is closed at the end of the job.
func (j *Job) Done() <-chan struct{} { return j.done }

// Err is how the job ended, once Done is closed.
func (j *Job) Err() error { return j.err }
