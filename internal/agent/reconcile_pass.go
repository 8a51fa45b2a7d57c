package agent

import (
	"context"
	"slices"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// pass looks at the tenant and begins what there is to do, until there is nothing that
// can be begun now.
func (r *reconciler) pass(ctx context.Context, tenant string) error {
	defer r.a.applying.Lock(tenant)()
	for ctx.Err() == nil {
		if err := r.a.opt.Seam("reconcile.pass:before", tenant); err != nil {
			return err
		}
		o, next, err := r.observe(tenant)
		if err != nil || o.Tenant == nil || o.Tenant.Destroying {
			return err
		}
		p := plan.Keep(o)
		b := r.newBatch(o, p)
		b.launch(r.a.tasksOf(p, b.roles))
		b.awaitServices()
		if b.begun == 0 {
			r.pokeAtNext(o, p, next)
			r.tell(tenant, func(w *waiter) { w.passed(p) })
			return nil
		}
	}
	return nil
}

// observe reads all of the tenant, and when the next try of what failed is due.
func (r *reconciler) observe(tenant string) (plan.Observed, time.Time, error) {
	o, err := r.a.observe(tenant)
	if err != nil {
		return o, time.Time{}, err
	}
	there := make(map[string]mvm.Instance, len(o.Instances))
	for _, i := range o.Instances {
		there[i.ID] = i
	}
	var next time.Time
	o.UnderWay, next = r.underWay(tenant, there, o.Now)
	return o, next, nil
}

// observe reads a tenant's records.
func (a *Agent) observe(tenant string) (plan.Observed, error) {
	o := plan.Observed{Now: time.Now(), Takes: a.opt.Images.Check}
	err := a.store.View(func(tx *store.Tx) error {
		t, err := tx.Tenant(tenant)
		if mvm.IsKind(err, mvm.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		o.Tenant = &t
		if o.Pools, err = tx.Pools(t.ID); err != nil {
			return err
		}
		o.Instances, err = tx.Instances(t.ID, "")
		return err
	})
	return o, err
}

// pokeAtNext has the next pass made when an override, a minimum time or a wait after
// a failure ends.
func (r *reconciler) pokeAtNext(o plan.Observed, p plan.Plan, next time.Time) {
	sooner := func(at time.Time) {
		if at.After(o.Now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, i := range o.Instances {
		sooner(i.ManualOverrideUntil)
	}
	for _, s := range p.Steps {
		sooner(s.After)
	}
	if !next.IsZero() {
		r.pokeAt(o.Tenant.ID, next)
	}
}

// batch is what one look at a tenant has begun.
type batch struct {
	r     *reconciler
	o     plan.Observed
	roles map[string]mvm.Role
	begun int
	free  int // tasks that the tenant may have beside those under way

	// Of what is under way, or begun here: pools whose image is built, gateways that
	// come up, others that go down, pools in which an instance is restarted or fails.
	building  map[string]bool
	gateways  int
	lowering  int
	restarted map[string]bool
}

func (r *reconciler) newBatch(o plan.Observed, p plan.Plan) *batch {
	b := &batch{r: r, o: o, roles: map[string]mvm.Role{}, free: r.perTenant, building: map[string]bool{}, restarted: map[string]bool{}}
	for _, pool := range o.Pools {
		b.roles[pool.Spec.ID] = pool.Spec.Role
	}
	for _, i := range o.Instances {
		b.noteInstance(i)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, obj := range r.objects {
		if obj.at.Tenant != o.Tenant.ID {
			continue
		}
		if obj.busy() {
			b.note(obj.task)
		}
		if obj.troubled(o.Now) && obj.at.Instance != "" {
			b.restarted[obj.at.Pool] = true // no more of what may be to blame
		}
	}
	for _, s := range p.Steps { // the image first, unless it fails and there is another
		if s.Kind == plan.BuildPool && !b.failsToBuild(s.Target) {
			b.building[s.Target.Pool] = true
		}
	}
	return b
}

// failsToBuild reports that the pool's image failed lately. r.mu is held.
func (b *batch) failsToBuild(pool mvm.Address) bool {
	obj := b.r.objects[pool.String()]
	return obj != nil && obj.waits(b.o.Now)
}

// noteInstance takes account of operations that others have under way.
func (b *batch) noteInstance(i mvm.Instance) {
	way, on := b.o.UnderWay[i.ID]
	if !on || !way.Runs {
		return
	}
	if i.Role == mvm.RoleGateway && i.Key == "" {
		b.gateways++
	}
}

// note takes account of a task that is under way.
func (b *batch) note(t *task) {
	switch {
	case t.kind == plan.BuildPool:
		b.building[t.at.Pool] = true
		if t.role == mvm.RoleGateway {
			b.gateways++
		}
		return
	case !t.rises() && t.role != mvm.RoleGateway:
		b.lowering++
	}
	if !t.opened.Load() {
		b.free--
	}
	if t.kind == plan.Restart {
		b.restarted[t.at.Pool] = true
	}
}

// launch begins the tasks that may be begun now. One that comes after a task that
// gives something up waits for its end: the next look sees what is free then.
func (b *batch) launch(tasks []*task) {
	lowered := false
	for _, t := range tasks {
		switch {
		case t.awaitsBuild, t.afterOp: // the look after that sees whether it has to be
			continue
		case b.o.Now.Before(t.after):
			b.r.deferred(t)
			continue
		case b.held(t):
			continue
		case t.rises() && lowered:
			return
		}
		if b.r.begin(t) != nil {
			continue
		}
		b.begun++
		b.note(t)
		if t.rises() && t.role == mvm.RoleGateway {
			b.gateways++
		}
		lowered = lowered || !t.rises() && t.kind != plan.BuildPool
	}
}

// held says whether the task has to wait for others.
func (b *batch) held(t *task) bool {
	if b.r.waiting(t.key, b.o.Now) {
		return true
	}
	if t.kind == plan.BuildPool {
		return false
	}
	gateway := t.role == mvm.RoleGateway
	switch {
	case b.free <= 0:
		return true
	case t.rises() && b.building[t.at.Pool]:
		return true
	case t.rises() && !gateway && b.gateways > 0: // they answer before anything is behind them
		return true
	case !t.rises() && gateway && b.lowering > 0:
		return true
	case t.kind == plan.Restart:
		return b.restarted[t.at.Pool] || b.serves(t.at) && b.unready(t.at)
	}
	return false
}

// serves reports that the instance runs and its services are ready: what does not serve
// may be mended at once.
func (b *batch) serves(at mvm.Address) bool {
	return slices.ContainsFunc(b.o.Instances, func(i mvm.Instance) bool {
		return i.ID == at.Instance && i.State == mvm.StateRunning && i.Ready && b.r.a.gaveUp(i) == nil
	})
}

// unready reports that another instance of the pool runs and is not ready: a restart
// of one more would leave fewer that answer.
func (b *batch) unready(at mvm.Address) bool {
	return slices.ContainsFunc(b.o.Instances, func(i mvm.Instance) bool {
		return i.Pool == at.Pool && i.ID != at.Instance && i.State == mvm.StateRunning && !i.Ready
	})
}

// waiting reports that the object has a task, or failed and has to wait.
func (r *reconciler) waiting(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.objects[key]
	return o != nil && (o.busy() || o.waits(now))
}

// awaitServices waits for the services of instances that run and were not seen ready,
// where nobody else does: an agent that was ended may have done so.
func (b *batch) awaitServices() {
	for _, i := range b.o.Instances {
		_, underWay := b.o.UnderWay[i.ID]
		if i.State != mvm.StateRunning || i.Ready || i.Problem != "" || i.Op != nil || underWay || i.ManualOverrideUntil.After(b.o.Now) {
			continue
		}
		t := &task{key: i.ID, at: i.Address(), role: i.Role, kind: plan.Operate, ops: []mvm.OpKind{mvm.OpStart}, to: mvm.StateRunning,
			shown: []mvm.PlanStep{{Action: "start", Target: i.Address().String(), Reason: "its services are not ready yet"}}}
		if !b.r.waiting(t.key, b.o.Now) && b.r.begin(t) == nil {
			b.begun++
		}
	}
}

// deferred records, once, that a task has to wait for a minimum time.
func (r *reconciler) deferred(t *task) {
	r.mu.Lock()
	known := r.deferrals[t.key].Equal(t.after)
	r.deferrals[t.key] = t.after
	r.mu.Unlock()
	if known {
		return
	}
	op := t.ops[0]
	r.a.opt.Metrics.Deferred(op, t.limit[:len(t.limit)-len("_seconds")])
	r.a.journal.Record(mvm.Event{Action: mvm.TransitionDeferred, Tenant: t.at.Tenant, Pool: t.at.Pool, Instance: t.at.Instance,
		By: byReconcile(), Why: t.shown[0].Reason, Detail: string(op) + " until " + t.after.Format(time.RFC3339) + ": " + t.limit})
}
