// Package schedule wakes instances for what their workloads want to do next. A guest tells
// its host of one time, its next wake; the host keeps it on the instance's record and wakes
// the instance a little before.
//
// Next is pure: what is known of one timer and a clock in, what to do out. Loop has one timer
// for all instances, and does nothing while nothing is due and nothing changes.
package schedule

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Bounds of the loop.
const (
	flushGap   = 10 * time.Second // between two times of an instance that are put on record while it runs
	wakes      = 8                // at once
	looks      = 8                // at once, at what sleeping instances would wake from
	retryFirst = 5 * time.Second  // after a wake that failed, doubled for each more, up to
	retryMost  = 5 * time.Minute
)

// Queue takes operations on instances.
type Queue interface {
	// Wake has the instance run and its services ready.
	Wake(ctx context.Context, id string, by mvm.Asker, why string) (mvm.Instance, error)
}

// Snapshots knows what instances would wake from.
type Snapshots interface {
	// Boots says why a wake of a sleeping instance of the pool would boot it; empty: it would go
	// on from its snapshot. It looks at records and files, and does not read a guest's memory.
	Boots(ctx context.Context, i mvm.Instance, pool mvm.Pool) (why string)
}

// Clock is the time of day, which may be set.
type Clock interface {
	Now() time.Time
	// Wait returns when it is later than until (zero: never), when poked gives a value, when
	// the clock was set, or when ctx ends.
	Wait(ctx context.Context, poked <-chan struct{}, until time.Time)
}

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Journal records what was done.
type Journal interface{ Record(mvm.Event) }

// Metrics counts timers by what became of them: "ok", "missed" (woken late), "failed",
// "skipped".
type Metrics interface{ Timer(result string) }

// Options are what a loop is made of. All of them are required.
type Options struct {
	Queue     Queue
	Snapshots Snapshots
	Clock     Clock
	Store     Store
	Journal   Journal
	Metrics   Metrics
	Log       *slog.Logger
}

// Loop wakes instances at their next wake. All methods may be called concurrently.
type Loop struct {
	opt   Options
	poked chan struct{}
	slots chan struct{}
	looks chan struct{}
	wg    sync.WaitGroup

	mu sync.Mutex
	by map[string]*entry
}

// entry is what is known of an instance beside its record. l.mu guards it.
type entry struct {
	look bool      // something may have changed
	next time.Time // when it is looked at again; zero: when something changes

	told  *told     // by the guest that runs
	saved time.Time // when that was put on record last

	met, last, retry time.Time
	tries            int
	waking, looking  bool

	seen *seen // what it would wake from; nil: nobody has looked
}

// seen is whether an instance that went to sleep then has to boot for that next wake.
type seen struct {
	at, changed time.Time
	boots       string // why; empty: it does not
}

func (s *seen) of(at, changed time.Time) bool {
	return s != nil && s.at.Equal(at) && s.changed.Equal(changed)
}

type told struct {
	boot int
	at   time.Time
}

// New makes a loop that does nothing before Run.
func New(opt Options) *Loop {
	return &Loop{opt: opt, poked: make(chan struct{}, 1), slots: make(chan struct{}, wakes), looks: make(chan struct{}, looks), by: map[string]*entry{}}
}

// Told takes in the next wake of an instance that runs, as its guest said; zero: it has none.
func (l *Loop) Told(i mvm.Instance, at time.Time) {
	at = l.sane(i.ID, at)
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[i.ID]
	switch {
	case e == nil && at.Equal(i.NextWake):
		return // as it is on record
	case e == nil:
		e = &entry{}
		l.by[i.ID] = e
	case e.told != nil && e.told.boot == i.DiskGeneration && e.told.at.Equal(at):
		return
	}
	e.told = &told{i.DiskGeneration, at}
	l.changed(e)
}

// Rests returns what goes on record of an instance that goes to rest, as its guest said just
// now: nothing, where it was awake at that time already.
func (l *Loop) Rests(id string, at time.Time) time.Time {
	at = l.sane(id, at)
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[id]; e != nil && e.met.Equal(at) {
		return time.Time{}
	}
	return at
}

// sane is the time that a guest told, where it is one.
func (l *Loop) sane(id string, at time.Time) time.Time {
	at, err := mvm.NextWake(at, l.opt.Clock.Now())
	if err != nil {
		l.opt.Log.Debug("next wake is ignored", "instance", id, "error", err)
	}
	return at
}

// Changed has an instance looked at: an operation on it has ended, or the agent has begun.
func (l *Loop) Changed(i mvm.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[i.ID]
	if e == nil && i.NextWake.IsZero() {
		return
	}
	if e == nil {
		e = &entry{}
		l.by[i.ID] = e
	}
	l.changed(e)
}

// changed has the entry looked at. l.mu is held.
func (l *Loop) changed(e *entry) {
	e.look = true
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// Run wakes instances until ctx ends, and then waits for what it started.
func (l *Loop) Run(ctx context.Context) {
	defer l.wg.Wait()
	for ctx.Err() == nil {
		l.opt.Clock.Wait(ctx, l.poked, l.round(ctx))
	}
}

// round looks at what has changed or is due, and returns when something is due next; zero:
// nothing is.
func (l *Loop) round(ctx context.Context) (next time.Time) {
	for _, id := range l.due(l.opt.Clock.Now()) {
		l.lookAt(ctx, id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.by {
		if !e.next.IsZero() && (next.IsZero() || e.next.Before(next)) {
			next = e.next
		}
	}
	return next
}

// due takes the instances that are to be looked at.
func (l *Loop) due(now time.Time) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range l.by {
		if e.look || !e.next.IsZero() && !e.next.After(now) {
			e.look, e.next = false, time.Time{}
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// lookAt does what the instance's timer calls for.
func (l *Loop) lookAt(ctx context.Context, id string) {
	i, pool, took, boot, err := l.read(id)
	if mvm.IsKind(err, mvm.KindNotFound) {
		l.mu.Lock()
		delete(l.by, id)
		l.mu.Unlock()
		return
	}
	if err != nil {
		l.opt.Log.Error("read timer", "instance", id, "error", err)
		l.again(id, l.opt.Clock.Now().Add(retryMost))
		return
	}
	now := l.opt.Clock.Now()
	at, save := l.save(i, now)
	if save {
		l.record(i, at)
	}
	t, step := l.decide(i, pool, Timer{Took: took, Boot: boot, At: at}, now)
	switch step.Do {
	case Look:
		l.look(ctx, i, pool, at)
	case Wake:
		l.wake(ctx, i, t, step.Why)
	case Skip:
		l.skip(i, t, step.Why)
	}
}

// read reads the instance, its pool and how long its last wake and its last boot took.
func (l *Loop) read(id string) (i mvm.Instance, pool mvm.Pool, took, boot time.Duration, err error) {
	err = l.opt.Store.View(func(tx *store.Tx) (err error) {
		if i, err = tx.Instance(id); err != nil {
			return err
		}
		if pool, err = tx.Pool(i.Tenant, i.Pool); err != nil || i.NextWake.IsZero() || i.State == mvm.StateRunning {
			return err
		}
		all, err := tx.Transitions(id)
		took = lastOf(all, func(t mvm.Transition) bool {
			return t.Op.Rises() && t.Error == "" && t.To == mvm.StateRunning && t.Kind != "cold"
		})
		boot = lastOf(all, store.Booted)
		return err
	})
	return i, pool, took, boot, err
}

// lastOf is how long the last such transition took; 0: there was none.
func lastOf(all []mvm.Transition, such func(mvm.Transition) bool) time.Duration {
	for _, t := range slices.Backward(all) {
		if such(t) {
			return t.Took
		}
	}
	return 0
}

// save returns the instance's next wake, and whether it is to be put on record now: what a
// guest tells while it runs is so after pauses.
func (l *Loop) save(i mvm.Instance, now time.Time) (at time.Time, save bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[i.ID]
	if e == nil || e.told == nil || e.told.boot != i.DiskGeneration || i.State != mvm.StateRunning {
		return i.NextWake, false
	}
	if e.told.at.Equal(i.NextWake) {
		return i.NextWake, false
	}
	if until := e.saved.Add(flushGap); now.Before(until) {
		e.next = until
		return e.told.at, false
	}
	e.saved = now
	return e.told.at, true
}

// record puts the next wake of an instance that runs on record.
func (l *Loop) record(i mvm.Instance, at time.Time) {
	err := l.change(i, func(now *mvm.Instance) { now.NextWake = at })
	if err != nil {
		l.opt.Log.Error("record next wake", "instance", i.ID, "error", err)
		l.again(i.ID, l.opt.Clock.Now().Add(flushGap))
	}
}

// change changes the record of an instance that is as it was.
func (l *Loop) change(i mvm.Instance, change func(*mvm.Instance)) error {
	return l.opt.Store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if mvm.IsKind(err, mvm.KindNotFound) || err == nil && (now.State != i.State || now.DiskGeneration != i.DiskGeneration || !now.NextWake.Equal(i.NextWake)) {
			return nil // its change has it looked at again
		}
		if err != nil {
			return err
		}
		change(&now)
		return tx.PutInstance(now)
	})
}

// again has the instance looked at then.
func (l *Loop) again(id string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[id]; e != nil {
		e.sooner(at)
	}
}

func (e *entry) sooner(at time.Time) {
	if e.next.IsZero() || at.Before(e.next) {
		e.next = at
	}
}

// decide asks Next of the timer, of which the times are known, and notes when to look again.
func (l *Loop) decide(i mvm.Instance, pool mvm.Pool, t Timer, now time.Time) (Timer, Step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[i.ID]
	if e == nil { // it was destroyed meanwhile
		return Timer{}, Step{}
	}
	at := t.At
	t.ID, t.CatchUp, t.State, t.Changed = i.ID, pool.Spec.WakeCatchUp, i.State, i.Changed
	t.Busy, t.Kept = i.Op != nil || e.waking || e.looking, i.Last == nil || !i.Last.Unwanted
	t.Met, t.Last, t.Retry = e.met, e.last, e.retry
	if t.Looked = e.seen.of(at, i.Changed); t.Looked {
		t.Boots = e.seen.boots
	}
	step := Next(t, now)
	switch {
	case step.Do == Meet:
		e.met = at
	case step.Do == Wake:
		e.waking = true
	case step.Do == Look:
		e.looking = true
	case !step.Next.IsZero():
		e.sooner(step.Next)
	case at.IsZero() && !e.waking && !e.look && e.next.IsZero() && now.Sub(e.met) > mvm.OldNextWake:
		delete(l.by, i.ID) // there is nothing to know of it
	}
	return t, step
}

// look sees whether the instance has to boot for its next wake, beside others.
func (l *Loop) look(ctx context.Context, i mvm.Instance, pool mvm.Pool, at time.Time) {
	l.wg.Go(func() {
		saw := &seen{at: at, changed: i.Changed}
		if release, err := wait.Slot(ctx, l.looks); err == nil {
			saw.boots = l.opt.Snapshots.Boots(ctx, i, pool)
			release()
		}
		if saw.boots != "" {
			l.opt.Log.Info("instance is booted for its timer", "instance", i.ID, "due", at, "why", saw.boots)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if e := l.by[i.ID]; e != nil {
			e.looking, e.seen = false, saw
			l.changed(e)
		}
	})
}

// wake wakes the instance, beside others.
func (l *Loop) wake(ctx context.Context, i mvm.Instance, t Timer, why string) {
	l.wg.Go(func() {
		release, err := wait.Slot(ctx, l.slots)
		if err == nil {
			_, err = l.opt.Queue.Wake(ctx, i.ID, mvm.Asker{Kind: mvm.AskerTimer, ID: i.ID}, why)
			release()
		}
		l.woken(ctx, i, t, why, err)
	})
}

// woken notes how a wake ended.
func (l *Loop) woken(ctx context.Context, i mvm.Instance, t Timer, why string, err error) {
	now := l.opt.Clock.Now()
	l.mu.Lock()
	if e := l.by[i.ID]; e != nil {
		e.waking = false
		if err == nil {
			e.tries, e.last, e.retry = 0, now, time.Time{}
		} else {
			e.retry = now.Add(pause(e.tries, t.At.Sub(now)))
			e.tries++
		}
		l.changed(e)
	}
	l.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.opt.Metrics.Timer("failed")
		l.opt.Log.Warn("wake for a timer", "instance", i.ID, "due", t.At, "error", err)
		return
	}
	result := "ok"
	if now.Sub(t.At) > Grace {
		result = "missed"
	}
	l.opt.Metrics.Timer(result)
	l.opt.Journal.Record(event(mvm.TimerFired, i, why, now))
}

// pause is how long to wait after so many tries that failed. ahead is how far its time is: no
// pause goes beyond that, unless it is close already.
func pause(tries int, ahead time.Duration) time.Duration {
	d := min(retryFirst<<min(tries, 10), retryMost)
	if ahead > 0 {
		d = min(d, max(ahead, retryFirst))
	}
	return d
}

// skip takes the next wake off the record.
func (l *Loop) skip(i mvm.Instance, t Timer, why string) {
	if err := l.change(i, func(now *mvm.Instance) { now.NextWake = time.Time{} }); err != nil {
		l.opt.Log.Error("skip timer", "instance", i.ID, "error", err)
		l.again(i.ID, l.opt.Clock.Now().Add(retryMost))
		return
	}
	l.opt.Metrics.Timer("skipped")
	l.opt.Journal.Record(event(mvm.TimerSkipped, i, t.At.UTC().Format(time.RFC3339)+": "+why, l.opt.Clock.Now()))
}

func event(act mvm.Action, i mvm.Instance, detail string, now time.Time) mvm.Event {
	return mvm.Event{Time: now, Action: act, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, By: mvm.Asker{Kind: mvm.AskerTimer, ID: i.ID}, Detail: detail}
}
