package agent

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/declare"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// The defaults of the reconcile loop.
const (
	defaultReconcile = 30 * time.Second
	defaultParallel  = 8
	passWorkers      = 4
	parallelBuilds   = 2
	// passShare bounds the loop's part of a processor: after a pass over a tenant that
	// took d, the next waits for passShare times d, at most the interval.
	passShare = 10
)

// reconciler keeps every tenant at what its record and its pools ask for. It is level
// triggered: something that may matter puts the tenant into the queue, and a pass
// reads all of the tenant, plans, and begins what there is to do. Nothing waits within
// a pass: what is under way is known by its object (an instance, or a pool), counts as
// if it were done, and its end is cause for another pass.
//
// One pass over a tenant runs at a time, and Apply's changes are between two of them.
type reconciler struct {
	a         *Agent
	every     time.Duration // negative: only who waits (Apply) has passes made
	queue     dueQueue
	slots     chan struct{} // instances that are operated on
	builds    chan struct{}
	perTenant int

	mu      sync.Mutex
	objects map[string]*object
	waiters map[*waiter]bool
	// deferrals are until when instances have to wait for a minimum time, to tell of it once.
	deferrals map[string]time.Time
}

func newReconciler(a *Agent) *reconciler {
	r := &reconciler{a: a, every: a.opt.Reconcile, objects: map[string]*object{}, waiters: map[*waiter]bool{}, deferrals: map[string]time.Time{}}
	if r.every == 0 {
		r.every = defaultReconcile
	}
	n := a.opt.Parallel
	if n == 0 {
		n = defaultParallel
	}
	r.slots, r.builds, r.perTenant = make(chan struct{}, n), make(chan struct{}, parallelBuilds), max(1, n/2)
	return r
}

// start begins the loop; it ends with the agent.
func (r *reconciler) start() {
	if r.every < 0 {
		return
	}
	r.a.goTracked(r.work)
	r.a.goTracked(r.resync)
}

// poke says that something of the tenant changed.
func (r *reconciler) poke(tenant string) { r.pokeAt(tenant, time.Time{}) }

// pokeAt has a pass over the tenant made at the time.
func (r *reconciler) pokeAt(tenant string, at time.Time) {
	if r.every >= 0 {
		r.queue.add(tenant, at)
	}
}

// resync puts every tenant into the queue, now and at the interval: a pass then finds
// what nobody told of.
func (r *reconciler) resync() {
	r.a.declare.Follow(r.a.ctx)
	for {
		r.a.declare.Hold(r.a.ctx)
		r.pokeAll()
		for next := time.Now().Add(r.every); time.Now().Before(next); {
			if wait.For(r.a.ctx, nil, min(declare.FileEvery, time.Until(next))) == wait.Canceled {
				return
			}
			r.a.declare.Follow(r.a.ctx)
		}
	}
}

// work makes the passes that are due until the agent ends, some of them at the same time.
func (r *reconciler) work() {
	passes := make(chan struct{}, passWorkers)
	for {
		release, err := wait.Slot(r.a.ctx, passes)
		if err != nil {
			return
		}
		tenant, ok := r.queue.next(r.a.ctx, func() { _ = r.a.opt.Seam("reconcile.due:before", "") })
		if !ok {
			return
		}
		r.a.goTracked(func() {
			defer release()
			r.workOn(tenant)
		})
	}
}

func (r *reconciler) workOn(tenant string) {
	began := time.Now()
	defer func() {
		now := time.Now()
		r.queue.done(tenant, now.Add(min(passShare*now.Sub(began), r.every)))
	}()
	err := r.pass(r.a.ctx, tenant)
	r.a.opt.Metrics.Reconciled(time.Since(began), err)
	if err != nil && r.a.ctx.Err() == nil {
		r.a.log.Error("reconcile", "tenant", tenant, "error", err)
		r.pokeAt(tenant, time.Now().Add(backoffBase))
	}
}

// pokeAll has a pass made over every tenant, after a change of all of them.
func (r *reconciler) pokeAll() {
	err := r.a.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		for _, t := range tenants {
			r.poke(t.ID)
		}
		return err
	})
	if err != nil {
		r.a.log.Error("list tenants to reconcile", "error", err)
	}
}

// changed says that a tenant's or pool's specification changed: what failed before may
// work now, and is tried at once.
func (r *reconciler) changed(tenant, pool string) {
	r.mu.Lock()
	for key, o := range r.objects {
		if o.at.Tenant == tenant && (pool == "" || o.at.Pool == pool) && !o.busy() {
			delete(r.objects, key)
		}
	}
	r.mu.Unlock()
	r.poke(tenant)
}

// Apply's steps and the loop's are the asker's that the events name.
func asReconcile(ctx context.Context) context.Context { return mvm.WithAsker(ctx, byReconcile()) }

func byReconcile() mvm.Asker { return mvm.Asker{Kind: mvm.AskerReconcile} }
