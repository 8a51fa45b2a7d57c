// Package reconcile keeps every tenant at what its record and its pools ask for: passes
// over tenants, tasks on instances and images, and pauses after failures. What is to be done
// is internal/plan's; who does it is behind interfaces.
package reconcile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// The defaults of the reconcile loop.
const (
	defaultEvery    = 30 * time.Second
	defaultParallel = 8
	passWorkers     = 4
	followEvery     = 2 * time.Second // looks at the file with the desired state
	// passShare bounds the loop's part of a processor: after a pass over a tenant that
	// took d, the next waits for passShare times d, at most the interval.
	passShare = 10
)

// Instances makes instances and knows how their services are.
type Instances interface {
	// New records a new instance of the pool, whose making is then under way.
	New(pool mvm.Address, why string) (mvm.Instance, error)
	// HalfDone says that the instance may be left half made: the agent finishes it.
	HalfDone(id string)
	// GaveUp is the service of a running instance for which it is no use to wait; nil:
	// none.
	GaveUp(i mvm.Instance) *mvm.ServiceHealth
	// ServiceError says of that service that it does not come up, where lines with the last
	// lines of its log, which is recorded.
	ServiceError(ctx context.Context, what string, i mvm.Instance, s mvm.ServiceHealth, lines bool) error
}

// Images builds them.
type Images interface {
	// Check refuses what names no image.
	Check(ref string) error
	// Build builds the pool's image, when it is its turn: how many are built at once is not
	// reconcile's to bound.
	Build(ctx context.Context, pool mvm.Address, progress func(mvm.Progress)) error
}

// Queue takes operations on instances.
type Queue interface {
	// Submit queues the operation, and waits for its end.
	Submit(ctx context.Context, id string, o Order, progress func(mvm.Progress)) error
	// Queued returns the last operation of each instance that has one under way or
	// waiting.
	Queued() map[string]Queued
	// GaveWay reports that an operation ended with this because something else was asked
	// for.
	GaveWay(err error) bool
	// Lost reports that an operation ended with this because the instance's VMM ended by
	// itself: that is no failure of the task, and the next pass decides what is to be done.
	Lost(err error) bool
}

// Order is an operation that reconcile wants.
type Order struct {
	Op  mvm.OpKind
	Why string
	// Parks: an instance that it makes warm is parked, as it was before.
	Parks bool
	// Opened is called once the instance runs and only its services are waited for.
	Opened func()
}

// Queued is an operation that is under way or waits.
type Queued struct {
	Op mvm.OpKind
	// Recovery: the agent took it up by itself.
	Recovery bool
}

// Declared is what the host is held to. One goroutine calls it.
type Declared interface {
	// Follow takes up the file with the desired state where it changed.
	Follow(ctx context.Context)
	// Hold makes the records agree with the state that is kept.
	Hold(ctx context.Context)
}

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Journal records what was put off.
type Journal interface{ Record(mvm.Event) }

// Metrics counts passes, and what was put off.
type Metrics interface {
	Deferred(op mvm.OpKind, reason string)
	Reconciled(took time.Duration, err error)
}

// Options are what a reconciler is made of. All fields without a stated default are
// required.
type Options struct {
	Instances Instances
	Images    Images
	Queue     Queue
	Store     Store
	Journal   Journal
	Metrics   Metrics
	Log       *slog.Logger
	// Every is how often every tenant is looked at, default 30 s. Negative: passes are made
	// for those who wait (Converge), and never by themselves.
	Every time.Duration
	// Parallel bounds how many instances are operated on at once, half of them of one
	// tenant; default 8.
	Parallel int
	// Rand spreads tries that failed together.
	Rand io.Reader
	// Seam is called at named points, with a tenant, an instance or "".
	Seam func(point, of string) error
}

// Reconciler keeps every tenant at what its record and its pools ask for. It is level
// triggered: something that may matter puts the tenant into the queue, and a pass
// reads all of the tenant, plans, and begins what there is to do. Nothing waits within
// a pass: what is under way is known by its object (an instance, or a pool), counts as
// if it were done, and its end is cause for another pass.
//
// One pass over a tenant runs at a time, and Apply's changes are between two of them: see
// Pause. All methods may be called concurrently.
type Reconciler struct {
	opt       Options
	every     time.Duration // negative: only who waits (Converge) has passes made
	queue     dueQueue
	slots     chan struct{} // instances that are operated on
	perTenant int
	passing   wait.Locks // one pass over a tenant, or change of its records, at a time

	life  context.Context // of tasks
	group wait.Group

	mu      sync.Mutex
	objects map[string]*object
	waiters map[*waiter]bool
	// deferrals are until when instances have to wait for a minimum time, to tell of it once.
	deferrals map[string]time.Time
}

// New makes a reconciler that makes passes for who waits, and by itself once it is
// started. Its tasks end with life.
func New(life context.Context, opt Options) *Reconciler {
	r := &Reconciler{opt: opt, every: opt.Every, life: life, objects: map[string]*object{}, waiters: map[*waiter]bool{}, deferrals: map[string]time.Time{}}
	if r.every == 0 {
		r.every = defaultEvery
	}
	n := opt.Parallel
	if n == 0 {
		n = defaultParallel
	}
	r.slots, r.perTenant = make(chan struct{}, n), max(1, n/2)
	return r
}

// Start begins the loop, which also follows what is declared. It ends with the
// reconciler's life.
func (r *Reconciler) Start(d Declared) {
	if r.every < 0 {
		return
	}
	r.group.Go(r.work)
	r.group.Go(func() { r.resync(d) })
}

// Close begins nothing any more, and waits for what was begun. Its life has to be over.
func (r *Reconciler) Close() { r.group.Close() }

// Pause keeps passes over the tenant from beginning, and others who pause it waiting, until
// resume.
func (r *Reconciler) Pause(tenant string) (resume func()) { return r.passing.Lock(tenant) }

// Parallel is how many instances are operated on at once.
func (r *Reconciler) Parallel() int { return cap(r.slots) }

// Poke says that something of the tenant changed.
func (r *Reconciler) Poke(tenant string) { r.pokeAt(tenant, time.Time{}) }

// pokeAt has a pass over the tenant made at the time.
func (r *Reconciler) pokeAt(tenant string, at time.Time) {
	if r.every >= 0 {
		r.queue.add(tenant, at)
	}
}

// resync puts every tenant into the queue, now and at the interval: a pass then finds
// what nobody told of.
func (r *Reconciler) resync(d Declared) {
	d.Follow(r.life)
	for {
		d.Hold(r.life)
		r.pokeAll()
		for next := time.Now().Add(r.every); time.Now().Before(next); {
			if wait.For(r.life, nil, min(followEvery, time.Until(next))) == wait.Canceled {
				return
			}
			d.Follow(r.life)
		}
	}
}

// work makes the passes that are due until the agent ends, some of them at the same time.
func (r *Reconciler) work() {
	passes := make(chan struct{}, passWorkers)
	for {
		release, err := wait.Slot(r.life, passes)
		if err != nil {
			return
		}
		tenant, ok := r.queue.next(r.life, func() { _ = r.opt.Seam("reconcile.due:before", "") })
		if !ok {
			return
		}
		r.group.Go(func() {
			defer release()
			r.workOn(tenant)
		})
	}
}

func (r *Reconciler) workOn(tenant string) {
	began := time.Now()
	defer func() {
		now := time.Now()
		r.queue.done(tenant, now.Add(min(passShare*now.Sub(began), r.every)))
	}()
	err := r.pass(r.life, tenant)
	r.opt.Metrics.Reconciled(time.Since(began), err)
	if err != nil && r.life.Err() == nil {
		r.opt.Log.Error("reconcile", "tenant", tenant, "error", err)
		r.pokeAt(tenant, time.Now().Add(backoffBase))
	}
}

// pokeAll has a pass made over every tenant, after a change of all of them.
func (r *Reconciler) pokeAll() {
	err := r.opt.Store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		for _, t := range tenants {
			r.Poke(t.ID)
		}
		return err
	})
	if err != nil {
		r.opt.Log.Error("list tenants to reconcile", "error", err)
	}
}

// Changed says that a tenant's or pool's specification changed: what failed before may
// work now, and is tried at once.
func (r *Reconciler) Changed(tenant, pool string) {
	r.mu.Lock()
	for key, o := range r.objects {
		if o.at.Tenant == tenant && (pool == "" || o.at.Pool == pool) && !o.busy() {
			delete(r.objects, key)
		}
	}
	r.mu.Unlock()
	r.Poke(tenant)
}

// errClosing ends what the reconciler's end cuts off.
var errClosing = mvm.Away("the agent is shutting down")

// errByHand ends a task whose instance a person changes.
var errByHand = errors.New("something else was asked for")

// Apply's steps and the loop's are the asker's that the events name.
func asReconcile(ctx context.Context) context.Context { return mvm.WithAsker(ctx, byReconcile()) }

func byReconcile() mvm.Asker { return mvm.Asker{Kind: mvm.AskerReconcile} }
