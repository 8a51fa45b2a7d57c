package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/store"
)

// undoTimeout bounds taking back the steps of an operation that failed.
const undoTimeout = 60 * time.Second

// step is one part of an operation. do measures, acts and verifies, and can run
// twice. undo, where there is one, takes it back when a later step fails.
type step struct {
	name string
	do   func(ctx context.Context) error
	undo func(ctx context.Context) error
	// forward: once the step before it is done the operation is no longer called off.
	forward bool
	// holds: where its undo fails, the steps before it stay as they are, and what is
	// left half done is finished later: see repair.go.
	holds bool
}

// operation is one run of an operation on an instance, by its runner.
type operation struct {
	l    *Lifecycle
	job  *Job
	kind mvm.OpKind
	inst mvm.Instance // as it is in the store
	pool mvm.Pool
	ten  mvm.Tenant
	log  *slog.Logger

	finishes *mvm.Op // the intent of a rise that was cut off and is finished; nil for none

	from    mvm.State
	began   time.Time
	stages  []mvm.Stage
	clock   time.Duration // error of the guest's clock after the gate
	bootWay string        // "warm" or "cold", for starts and wakes
	reason  string        // why that way
	silent  bool          // the guest did not answer when it was asked to drain
	digest  []byte        // of the configuration that the gate gave the guest
	failure error         // for which steps are taken back
	booted  bool          // a VMM was made that boots
	torn    bool          // taking back a step failed
	died    bool          // the VMM that it began with ended by itself, before or meanwhile
	had     VMM           // the VMM that it began with

	nextWake time.Time // of the workload, as its guest told when it got ready to rest
	unwanted bool      // a stop that nobody wants to last
	parked   bool      // the instance was, before its sleep was committed
	again    bool      // it is a restart's stop or start

	vmmName   string // that the instance has or had
	snapBytes int64  // of the snapshot that was written or read

	leaseEnd time.Time // until when services hold still; zero: until they are told
	settling bool      // the guest has services to tell of what the gate gave it
	settled  bool      // services go on again
	untold   string    // what they could not be told

	clockSure           bool      // clock is all that the error can be, within guestclock.MaxError
	pausedAt, resumedAt time.Time // when the vCPUs last stood still, and ran again
}

// perform runs a job to its end. It is called by the instance's runner only.
func (l *Lifecycle) perform(j *Job, id string) (mvm.Instance, error) {
	if err := context.Cause(j.ctx); err != nil && j.ctx.Err() != nil {
		if errors.Is(err, errWakeArrived) {
			err = mvm.Errorf(mvm.KindState, "%s %s: %w", j.req.Op, id, err)
		}
		return mvm.Instance{}, err
	}
	if j.req.apart != nil {
		return l.apart(j, id), nil
	}
	if err := l.opt.Seam(string(j.req.Op)+".begin:before", id); err != nil {
		return mvm.Instance{}, err
	}
	o, err := l.newOperation(j, id)
	if err != nil {
		return mvm.Instance{}, err
	}
	err = o.afterCrash(o.dispatch(j.ctx))
	o.report(err)
	if err != nil && o.died {
		err = lostError{err}
	}
	return o.inst, err
}

func (l *Lifecycle) newOperation(j *Job, id string) (*operation, error) {
	o := &operation{l: l, job: j, kind: j.req.Op, began: time.Now(), had: l.opt.VMMs.Of(id)}
	err := l.store.View(func(tx *store.Tx) (err error) {
		if o.inst, err = tx.Instance(id); err != nil {
			return err
		}
		if o.pool, err = tx.Pool(o.inst.Tenant, o.inst.Pool); err != nil {
			return err
		}
		o.ten, err = tx.Tenant(o.inst.Tenant)
		return err
	})
	if err != nil {
		return nil, err
	}
	o.from, o.finishes = o.inst.State, j.req.Finishes
	if cut := o.inst.Op; o.kind == opRepair && cut != nil && cut.Kind.Rises() {
		o.finishes = cut
	}
	if o.inst.Last != nil {
		o.vmmName = o.inst.Last.VMM
	}
	o.log = l.log.With("tenant", o.inst.Tenant, "pool", o.inst.Pool, "instance", id)
	if j.req.id != "" {
		o.log = o.log.With("request", j.req.id)
	}
	return o, nil
}

// dispatch walks the instance from its state to where the operation leads.
func (o *operation) dispatch(ctx context.Context) error {
	if l := o.job.req.Ended; l != nil && o.l.opt.VMMs.Of(o.inst.ID) != l {
		return nil
	}
	if o.kind == opClock {
		if o.inst.State != mvm.StateRunning || o.lost() {
			return nil
		}
		return o.rightClock(ctx)
	}
	if err := o.repair(ctx); err != nil {
		return err
	}
	st := o.inst.State
	switch o.kind {
	case mvm.OpStart, mvm.OpWake:
		return o.toRunning(ctx)
	case mvm.OpResume:
		if st == mvm.StateWarm {
			return o.resume(ctx)
		}
		return o.noopIf(mvm.StateRunning)
	case mvm.OpWarm:
		if st == mvm.StateRunning {
			return o.warm(ctx)
		}
		return o.noopIf(mvm.StateWarm)
	case mvm.OpSleep:
		return o.toSleeping(ctx)
	case mvm.OpStop:
		if st == mvm.StateRunning || st == mvm.StateWarm || st == mvm.StateSleeping {
			return o.stop(ctx)
		}
		return errors.Join(o.wantStopped(), o.noopIf(mvm.StateStopped))
	case mvm.OpRestart:
		return o.restart(ctx)
	case mvm.OpCreate:
		return o.makeReady(ctx)
	case mvm.OpDestroy:
		return o.destroy(ctx)
	case mvm.OpRestore:
		return o.bringBack(ctx)
	case opRepair:
		return o.repairCreated(ctx)
	}
	return mvm.Errorf(mvm.KindInvalid, "operation %q is unknown", o.kind)
}

// lostError is the error of an operation whose instance lost its VMM: what becomes of the
// instance then is decided as after any such end.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// Lost reports that an operation failed so.
func Lost(err error) bool { return errors.As(err, &lostError{}) }

// died reports whether there was a VMM and it ended, though the agent did not end it.
func died(v VMM) bool { return v != nil && v.Died() }

// lost reports that the instance has no VMM that runs.
func (o *operation) lost() bool { return !o.l.opt.VMMs.Lives(o.inst.ID) }

func (o *operation) toRunning(ctx context.Context) error {
	switch o.inst.State {
	case mvm.StateRunning:
		if why := o.l.opt.VMMs.Stalled(o.inst.ID); why != "" {
			return mvm.Errorf(mvm.KindUnavailable, "%s %s: %w", o.kind, o.inst.ID, mvm.HostFault(errors.New(why)))
		}
		// Where it was ready once, requests get what its other services answer.
		if !(o.inst.Ready && o.job.req.By.Kind.OnDemand()) {
			if err := o.servesNobody(ctx); err != nil {
				return err
			}
		}
		if o.inst.Problem != "" {
			return nil
		}
		return o.waitReady(ctx)
	case mvm.StateWarm:
		return o.resume(ctx)
	case mvm.StateSleeping:
		return o.wake(ctx)
	case mvm.StateCreated:
		if err := o.makeReady(ctx); err != nil {
			return err
		}
	}
	return o.start(ctx, coldReason(o.inst.State))
}

// coldReason says why an instance that has no snapshot boots from its disks.
func coldReason(from mvm.State) string {
	if from == mvm.StateStopped {
		return "it was stopped: there is no snapshot"
	}
	return "first start"
}

func (o *operation) toSleeping(ctx context.Context) error {
	switch o.inst.State {
	case mvm.StateWarm, mvm.StateRunning:
		return o.sleep(ctx)
	}
	return o.noopIf(mvm.StateSleeping)
}

// noopIf accepts an operation that has nothing to do in the state.
func (o *operation) noopIf(st mvm.State) error {
	if o.inst.State == st {
		return o.unpark()
	}
	return mvm.Errorf(mvm.KindState, "%s %s: it is %s", o.kind, o.inst.Address(), o.inst.State).
		WithFix("see `mvm instance info %s`", o.inst.ID)
}

// run does the steps in order. When one fails it takes back those before it, and
// the failed one, last first.
func (o *operation) run(ctx context.Context, op mvm.OpKind, steps []step) error {
	for i, s := range steps {
		began := time.Now()
		if err := o.runStep(ctx, op, s); err != nil {
			err = mvm.Errorf(mvm.KindOf(err), "%s %s: %s: %w", op, o.inst.ID, s.name, err)
			return o.undo(err, op, steps[:i+1])
		}
		o.stages = append(o.stages, mvm.Stage{Name: s.name, Took: time.Since(began)})
	}
	return nil
}

func (o *operation) runStep(ctx context.Context, op mvm.OpKind, s step) error {
	if s.forward {
		ctx = context.WithoutCancel(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	point := string(op) + "." + s.name
	if err := o.l.opt.Seam(point+":before", o.inst.ID); err != nil {
		return err
	}
	if err := s.do(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		return err
	}
	return o.l.opt.Seam(point+":after", o.inst.ID)
}

// undo takes steps back, last first, and joins what fails to err.
func (o *operation) undo(err error, op mvm.OpKind, steps []step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.job.ctx), undoTimeout)
	defer cancel()
	o.failure = err
	o.died = o.died || died(o.had)
	for i := len(steps) - 1; i >= 0; i-- {
		s := steps[i]
		if s.undo == nil {
			continue
		}
		if e := o.l.opt.Seam(string(op)+"."+s.name+":undo", o.inst.ID); e != nil {
			err = errors.Join(err, e)
		}
		if e := s.undo(ctx); e != nil {
			o.torn = true
			err = errors.Join(err, mvm.Errorf(mvm.KindOf(e), "take back %s: %w", s.name, e))
			if s.holds {
				break
			}
		}
	}
	return err
}

// update changes the instance's record in one transaction with whatever else change
// does. What the operation knows of the instance is what is durable.
func (o *operation) update(change func(tx *store.Tx, i *mvm.Instance) error) error {
	var now mvm.Instance
	err := o.l.store.Update(func(tx *store.Tx) (err error) {
		if now, err = tx.Instance(o.inst.ID); err != nil {
			return err
		}
		if err := change(tx, &now); err != nil {
			return err
		}
		return tx.PutInstance(now)
	})
	if err == nil {
		o.inst = now
	}
	return err
}

// save changes the instance's record durably.
func (o *operation) save(change func(i *mvm.Instance)) error {
	return o.update(func(_ *store.Tx, i *mvm.Instance) error {
		change(i)
		return nil
	})
}

// intend makes the operation's intent durable; check, where given, refuses it with
// the whole state at hand.
func (o *operation) intend(op mvm.OpKind, check func(tx *store.Tx, i mvm.Instance) error) error {
	return o.update(func(tx *store.Tx, i *mvm.Instance) error {
		if check != nil {
			if err := check(tx, *i); err != nil {
				return err
			}
		}
		by, why := o.asker()
		i.Op = &mvm.Op{Kind: op, By: firstAsker(i.Op, op, by), Why: why, Started: o.began, Request: o.job.req.id}
		return nil
	})
}

// asker is who wants the instance where the operation leads, and why: of a rise that was
// cut off and is finished, who asked first. Reconcile leaves what someone uses.
func (o *operation) asker() (mvm.Asker, string) {
	if f := o.finishes; f != nil {
		return f.By, f.Why
	}
	return o.job.req.By, o.job.req.Why
}

// firstAsker is who a stop is by: of one that was cut off, who asked first.
func firstAsker(was *mvm.Op, op mvm.OpKind, by mvm.Asker) mvm.Asker {
	stops := func(op mvm.OpKind) bool { return op == mvm.OpStop || op == mvm.OpRestart }
	if was != nil && stops(was.Kind) && stops(op) {
		return was.By
	}
	return by
}

// forget clears the intent of an operation that was taken back. It stays when that
// failed half-way: something is left to be done, see repair.go.
func (o *operation) forget(context.Context) error {
	if o.torn || o.again && errors.Is(context.Cause(o.job.ctx), ErrClosing) { // the next agent starts it
		return nil
	}
	return o.save(func(i *mvm.Instance) { i.Op = nil })
}

// complete makes the end of the operation durable: the state, no intent, the record
// of how it went, and its event.
func (o *operation) complete(to mvm.State, act mvm.Action, change func(i *mvm.Instance)) error {
	tr := o.transition(to)
	ev := o.event(act, o.reason)
	return o.update(func(tx *store.Tx, i *mvm.Instance) error {
		if e, ok := o.snapshotEvent(act, i.Snapshot); ok {
			if _, err := tx.AppendEvent(e); err != nil {
				return err
			}
		}
		if e, ok := o.timerEvent(act, *i); ok {
			if _, err := tx.AppendEvent(e); err != nil {
				return err
			}
		}
		i.State, i.Op, i.Last, i.Changed, i.Problem = to, nil, tr, o.l.opt.Now(), ""
		i.Parked = o.parks(*i, to)
		if change != nil {
			change(i)
		}
		tr.SecretsGeneration = i.SecretsGeneration
		if err := tx.PutTransition(i.ID, *tr); err != nil {
			return err
		}
		_, err := tx.AppendEvent(ev)
		return err
	})
}

// snapshotEvent is what becomes of the snapshot with the end of the operation.
func (o *operation) snapshotEvent(act mvm.Action, s *mvm.SnapshotRef) (mvm.Event, bool) {
	of := map[mvm.Action]mvm.Action{mvm.InstanceSlept: mvm.SnapshotCreated, mvm.InstanceWoken: mvm.SnapshotRestored,
		mvm.InstanceStopped: mvm.SnapshotDeleted}[act]
	if of == "" || s == nil {
		return mvm.Event{}, false
	}
	return o.event(of, s.ID), true
}

func (o *operation) event(act mvm.Action, detail string) mvm.Event {
	return mvm.Event{Time: time.Now(), Action: act, Tenant: o.inst.Tenant, Pool: o.inst.Pool,
		Instance: o.inst.ID, By: o.job.req.By, Why: o.job.req.Why, Detail: detail, Request: o.job.req.id}
}

// progress tells those who wait.
func (o *operation) progress(text string) {
	o.job.prog.send(mvm.Progress{Target: o.inst.Address().String(), Text: text})
}
