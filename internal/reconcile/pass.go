package reconcile

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// pass looks at the tenant and begins what there is to do, until there is nothing that
// can be begun now.
func (r *Reconciler) pass(ctx context.Context, tenant string) error {
	defer r.passing.Lock(tenant)()
	for ctx.Err() == nil {
		if err := r.opt.Seam("reconcile.pass:before", tenant); err != nil {
			return err
		}
		o, next, err := r.observe(tenant)
		if err != nil || o.Tenant == nil || o.Tenant.Destroying {
			return err
		}
		p := plan.Keep(o)
		if r.launch(o, p) == 0 {
			r.pokeAtNext(o, p, next)
			r.tell(tenant, func(w *waiter) { w.passed(p) })
			return nil
		}
	}
	return nil
}

// observe reads all of the tenant, and when the next try of what failed is due.
func (r *Reconciler) observe(tenant string) (plan.Observed, time.Time, error) {
	o, err := r.read(tenant)
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

// read reads a tenant's records.
func (r *Reconciler) read(tenant string) (plan.Observed, error) {
	o := plan.Observed{Now: time.Now(), Takes: r.opt.Images.Check}
	err := r.opt.Store.View(func(tx *store.Tx) error {
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

// Observe reads all of the tenant, and what is under way.
func (r *Reconciler) Observe(tenant string) (plan.Observed, error) {
	o, _, err := r.observe(tenant)
	return o, err
}

// pokeAtNext has the next pass made when an override, a minimum time or a wait after
// a failure ends.
func (r *Reconciler) pokeAtNext(o plan.Observed, p plan.Plan, next time.Time) {
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

// launch begins what may begin now, as plan.Pace says, and returns how much that is.
func (r *Reconciler) launch(o plan.Observed, p plan.Plan) (begun int) {
	pace := plan.NewPace(o, p, r.known(o), r.perTenant, func(i mvm.Instance) bool { return r.opt.Instances.GaveUp(i) != nil })
	begin := func(t plan.Task) {
		if r.begin(&task{Task: t}) != nil {
			pace.Failed(t)
			return
		}
		pace.Began(t)
		begun++
	}
	for _, t := range p.Tasks(o) {
		turn := pace.Turn(t)
		if turn == plan.Stop {
			break
		}
		switch turn {
		case plan.Begin:
			begin(t)
		case plan.Later:
			r.deferred(t)
		}
	}
	for _, t := range o.Unready() {
		if !pace.Waits(t.Key) {
			begin(t)
		}
	}
	return begun
}

// known is what is under way for the tenant, and what failed lately.
func (r *Reconciler) known(o plan.Observed) (out []plan.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, obj := range r.objects {
		if obj.at.Tenant != o.Tenant.ID {
			continue
		}
		known := plan.Object{Key: key, At: obj.at, Waits: obj.waits(o.Now), Troubled: obj.troubled(o.Now)}
		if obj.busy() {
			known.Task, known.Open = &obj.task.Task, obj.task.opened.Load()
		}
		out = append(out, known)
	}
	return out
}

// deferred records, once, that a task has to wait for a minimum time.
func (r *Reconciler) deferred(t plan.Task) {
	r.mu.Lock()
	known := r.deferrals[t.Key].Equal(t.After)
	r.deferrals[t.Key] = t.After
	r.mu.Unlock()
	if known {
		return
	}
	op := t.Ops[0]
	r.opt.Metrics.Deferred(op, t.Limit[:len(t.Limit)-len("_seconds")])
	r.opt.Journal.Record(mvm.Event{Action: mvm.TransitionDeferred, Tenant: t.At.Tenant, Pool: t.At.Pool, Instance: t.At.Instance,
		By: byReconcile(), Why: t.Shown[0].Reason, Detail: string(op) + " until " + t.After.Format(time.RFC3339) + ": " + t.Limit})
}
