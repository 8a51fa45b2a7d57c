package agent

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/lifecycle"
	"mvm/internal/reconcile"
)

// reconciled is what reconcile asks of the agent.
type reconciled struct{ a *Agent }

var (
	_ reconcile.Instances = reconciled{}
	_ reconcile.Images    = reconciled{}
	_ reconcile.Queue     = reconciled{}
)

func byReconcile() mvm.Asker { return mvm.Asker{Kind: mvm.AskerReconcile} }

// New implements reconcile.Instances.
func (r reconciled) New(pool mvm.Address, why string) (mvm.Instance, error) {
	return r.a.fleet.CreateInstance(pool.Tenant, pool.Pool, "", mvm.Op{Kind: mvm.OpCreate, By: byReconcile(), Why: why, Started: time.Now()})
}

// HalfDone implements reconcile.Instances.
func (r reconciled) HalfDone(id string) { r.a.lifecycle.HalfDone(id) }

// GaveUp implements reconcile.Instances.
func (r reconciled) GaveUp(i mvm.Instance) *mvm.ServiceHealth { return r.a.health.GaveUp(i) }

// ServiceError implements reconcile.Instances.
func (r reconciled) ServiceError(ctx context.Context, what string, i mvm.Instance, s mvm.ServiceHealth, lines bool) error {
	var last []string
	if lines {
		last = r.a.session.LastLines(ctx, i.ID, s.Name)
		if len(last) > 0 && mvm.Recorded(ctx) {
			r.a.session.RecordUse(ctx, mvm.LogsRead, i, s.Name)
		}
	}
	return r.a.health.ServiceError(what, i, s, last)
}

// Check implements reconcile.Images.
func (r reconciled) Check(ref string) error { return r.a.opt.Images.Check(ref) }

// Build implements reconcile.Images.
func (r reconciled) Build(ctx context.Context, pool mvm.Address, progress func(mvm.Progress)) error {
	_, err := r.a.BuildPool(ctx, pool.Tenant, pool.Pool, progress)
	return err
}

// Submit implements reconcile.Queue.
func (r reconciled) Submit(ctx context.Context, id string, o reconcile.Order, progress func(mvm.Progress)) error {
	_, err := r.a.lifecycle.Submit(ctx, id, lifecycle.Request{Op: o.Op, By: byReconcile(), Why: o.Why, Parks: o.Parks, Opened: o.Opened}, progress)
	return err
}

// Queued implements reconcile.Queue.
func (r reconciled) Queued() map[string]reconcile.Queued {
	last := r.a.lifecycle.Last()
	out := make(map[string]reconcile.Queued, len(last))
	for id, req := range last {
		out[id] = reconcile.Queued{Op: req.Op, Recovery: req.By.Kind == mvm.AskerAgent}
	}
	return out
}

// GaveWay implements reconcile.Queue.
func (r reconciled) GaveWay(err error) bool {
	return lifecycle.GaveWay(err)
}

// Lost implements reconcile.Queue.
func (r reconciled) Lost(err error) bool { return lifecycle.Lost(err) }
