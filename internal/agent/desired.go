package agent

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// metaKept is where the state is kept that the host is held to.
const metaKept = "desired_kept"

// settlers bounds the tenants that one request has made so at the same time.
const settlers = 8

// kept is a desired state that the agent holds its host to.
type kept struct {
	State desired.Document `json:"state"`
	// Signed: it was accepted because of its signature.
	Signed bool      `json:"signed,omitempty"`
	By     mvm.Asker `json:"by"`
	At     time.Time `json:"at"`
}

// Reconcile implements api.Service.
func (a *Agent) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	progress = oneAtATime(progress)
	switch {
	case req.Forget:
		return nil, a.forget()
	case len(req.State) == 0:
		return a.reconcileRecord(ctx, req, progress)
	}
	doc, accept, err := a.readState(req.State)
	if err != nil {
		return nil, err
	}
	h, done, err := a.applyState(ctx, doc, req, accept, progress)
	if err != nil || req.NoWait || req.Dry {
		return done, err
	}
	more, err := a.settleAll(ctx, h.names(), progress)
	return append(done, more...), err
}

// applyState puts the state on record, or says what that would do.
func (a *Agent) applyState(ctx context.Context, doc desired.Document, req mvm.ReconcileRequest, accept func(*store.Tx) error, progress func(mvm.Progress)) (hostPlan, []mvm.PlanStep, error) {
	defer a.states.lock("state")()
	h, err := a.planHost(doc)
	if err != nil {
		return h, nil, err
	}
	h.tell(progress)
	if req.Dry {
		return h, h.display(), nil
	}
	if err := a.keepState(ctx, doc, req.Keep, accept); err != nil {
		return h, nil, err
	}
	done, err := a.applyHost(ctx, h, progress)
	return h, done, err
}

// oneAtATime makes a function that may be called from many goroutines.
func oneAtATime(progress func(mvm.Progress)) func(mvm.Progress) {
	if progress == nil {
		return func(mvm.Progress) {}
	}
	var mu sync.Mutex
	return func(p mvm.Progress) {
		mu.Lock()
		defer mu.Unlock()
		progress(p)
	}
}

// readState reads a desired state, signed or not. accept, where not nil, has it
// remembered that the state was accepted, within the transaction that it gets.
func (a *Agent) readState(state []byte) (doc desired.Document, accept func(*store.Tx) error, err error) {
	node, err := a.nodeID()
	if err != nil {
		return doc, nil, err
	}
	if a.opt.Trust.SignedOnly || desired.IsSigned(state) {
		return a.signedState(node, state)
	}
	if doc, err = desired.Decode(state); err == nil && doc.NodeID != node {
		err = mvm.Errorf(mvm.KindPolicy, "desired state is for node %q, and this is %q", doc.NodeID, node).
			WithFix("see `mvm node info`; `mvm agent desired` prints the state of this host")
	}
	return doc, nil, err
}

// keepState remembers what was accepted, before anything is changed.
func (a *Agent) keepState(ctx context.Context, doc desired.Document, keep bool, accept func(*store.Tx) error) error {
	if !keep && accept == nil {
		return nil
	}
	raw, err := json.Marshal(kept{State: doc, Signed: accept != nil, By: mvm.AskerFrom(ctx), At: time.Now()})
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "keep desired state: %w", err)
	}
	return a.store.Update(func(tx *store.Tx) error {
		if accept != nil {
			if err := accept(tx); err != nil {
				return err
			}
		}
		if !keep {
			return nil
		}
		return tx.PutMeta(metaKept, string(raw))
	})
}

// forget ends that the host is held to a state. Once it returns nothing more is done
// for that state.
func (a *Agent) forget() error {
	defer a.states.lock("state")()
	return a.store.Update(func(tx *store.Tx) error { return tx.PutMeta(metaKept, "") })
}

// keptState is the state that the host is held to, nil when there is none.
func (a *Agent) keptState() (*kept, error) {
	var raw string
	err := a.store.View(func(tx *store.Tx) (err error) {
		raw, _, err = tx.Meta(metaKept)
		return err
	})
	if err != nil || raw == "" {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal([]byte(raw), &k); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read the desired state that is kept: %w", err).
			WithFix("give the host its state again, or `mvm agent reconcile --forget`")
	}
	return &k, nil
}

// hold makes the records agree with the state that is kept, as often as the agent
// looks at everything. Somebody who changed them meanwhile has not the last word.
func (r *reconciler) hold() {
	err := r.a.holdKept(asReconcile(r.a.ctx))
	if err != nil && r.a.ctx.Err() == nil {
		r.a.log.Error("hold the host to its desired state", "error", err)
	}
}

// holdKept reads what is kept once nobody can keep another: with one that was overtaken
// it would undo what the newer made.
func (a *Agent) holdKept(ctx context.Context) error {
	defer a.states.lock("state")()
	k, err := a.keptState()
	if err != nil || k == nil {
		return err
	}
	h, err := a.planHost(k.State)
	if err != nil {
		return err
	}
	_, err = a.applyHost(ctx, h, func(p mvm.Progress) { a.log.Info("held to the desired state", "target", p.Target, "step", p.Text) })
	return err
}

// reconcileRecord makes the host, or one tenant, what is on record.
func (a *Agent) reconcileRecord(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	names := []string{req.Tenant}
	if req.Tenant == "" {
		tenants, err := a.Tenants(ctx)
		if err != nil {
			return nil, err
		}
		names = nil
		for _, t := range tenants {
			names = append(names, t.ID)
		}
	} else if _, _, err := a.Tenant(ctx, req.Tenant); err != nil {
		return nil, err
	}
	if !req.Dry {
		if req.NoWait {
			for _, n := range names {
				a.reconciler.changed(n, "")
			}
			return nil, nil
		}
		return a.settleAll(ctx, names, progress)
	}
	var out []mvm.PlanStep
	for _, n := range names {
		o, _, err := a.reconciler.observe(n)
		if err != nil {
			return nil, err
		}
		p := plan.Keep(o)
		out = append(out, p.Display()...)
		tellNotes(p, n, progress)
	}
	return out, nil
}

func tellNotes(p plan.Plan, tenant string, progress func(mvm.Progress)) {
	for _, n := range p.Notes {
		progress(mvm.Progress{Target: tenant, Text: n})
	}
}

// settleAll waits until every one of the tenants is as its records say.
func (a *Agent) settleAll(ctx context.Context, tenants []string, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	steps, errs := make([][]mvm.PlanStep, len(tenants)), make([]error, len(tenants))
	order := make([]int, len(tenants))
	for n := range order {
		order[n] = n
	}
	each(order, settlers, func(n int) { steps[n], errs[n] = a.reconciler.settle(ctx, tenants[n], progress) })
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return slices.Concat(steps...), errs[0]
	}
	return slices.Concat(steps...), errors.Join(errs...)
}

// Desired implements api.Service.
func (a *Agent) Desired(context.Context) (json.RawMessage, error) {
	node, err := a.nodeID()
	if err != nil {
		return nil, err
	}
	var tenants []mvm.Tenant
	var pools []mvm.Pool
	sealed := map[string][]byte{}
	err = a.store.View(func(tx *store.Tx) (err error) {
		if tenants, err = tx.Tenants(); err != nil {
			return err
		}
		for _, t := range tenants {
			sealed[t.ID] = tx.Secrets(t.ID)
		}
		pools, err = tx.Pools("")
		return err
	})
	if err != nil {
		return nil, err
	}
	hashes := map[string]string{}
	for _, t := range tenants {
		if hashes[t.ID], err = a.secretsHash(t, sealed[t.ID]); err != nil {
			return nil, err
		}
	}
	return desired.FromState(node, tenants, pools, func(id string) string { return hashes[id] }).Encode()
}

// secretsHash names the tenant's secrets by a keyed hash; empty: it has none.
func (a *Agent) secretsHash(t mvm.Tenant, sealed []byte) (string, error) {
	vals, err := a.openSecrets(t, sealed)
	if err != nil || len(vals) == 0 {
		return "", err
	}
	return a.opt.Sealer.Hash(t.ID, vals)
}
