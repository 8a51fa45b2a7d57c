package sim_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/desired"
)

// held is a desired state that the host may be held to, because somebody asked for it.
type held struct {
	doc    *desired.Document // nil: none
	digest string
	life   *life // that was asked
	over   bool  // it answered
}

// settled reports that nothing more becomes of it: it is in force, or never will be.
func (h *held) settled() bool { return h.over || h.life == nil || h.life.dead.Load() }

// prunes reports whether the host would destroy what is there of the tenant, or of the
// pool where it is not empty, if it were held to the state.
func (h *held) prunes(tenant, pool string) bool {
	if h.doc == nil {
		return false
	}
	for _, t := range h.doc.Tenants {
		if t.TenantID == tenant {
			return pool != "" && h.doc.PruneUnknownPools && !slices.ContainsFunc(t.Pools, func(p desired.Pool) bool { return p.PoolID == pool })
		}
	}
	return h.doc.PruneUnknownTenants
}

// newHeld is the state as it is issued to the agent that runs.
func (w *world) newHeld(doc *desired.Document) *held {
	h := &held{doc: doc, life: w.life}
	if doc != nil {
		raw, err := doc.Encode()
		if err != nil {
			w.fail("encode a desired state: %v", err)
		}
		sum := sha256.Sum256(raw)
		h.digest = "sha256:" + hex.EncodeToString(sum[:])
	}
	return h
}

// hold issues what changes to which state the host is held. Once it is acknowledged
// nothing from before it is in force.
func (w *world) hold(name string, h *held, fn func(ctx context.Context, l *life) error) {
	var before []*held
	for _, o := range w.model.held {
		if o.settled() {
			before = append(before, o)
		}
	}
	n := w.nextID
	w.ask(name, fn, func(err error) {
		h.over = true
		if err == nil {
			w.model.held = slices.DeleteFunc(w.model.held, func(o *held) bool { return slices.Contains(before, o) })
		}
	})
	if w.nextID > n {
		w.model.held = append(w.model.held, h)
	}
}

// push gives the host a desired state, for once or to be held to.
func (w *world) push() {
	doc := desired.Document{SchemaVersion: desired.SchemaVersion, NodeID: nodeID, Tenants: []desired.Tenant{},
		PruneUnknownTenants: w.chance(15), PruneUnknownPools: w.chance(30)}
	for n := range 2 {
		if t := w.desiredTenant(fmt.Sprintf("t%d", n)); w.chance(75) {
			doc.Tenants = append(doc.Tenants, t)
		}
	}
	h := w.newHeld(&doc)
	req := mvm.ReconcileRequest{Keep: w.chance(50), NoWait: w.chance(30)}
	req.State, _ = doc.Encode()
	fn := func(ctx context.Context, l *life) error {
		_, err := l.a.Reconcile(ctx, req, nil)
		return err
	}
	name := fmt.Sprintf("push %s, keep %t, prune tenants %t, pools %t", h.digest[7:15], req.Keep, doc.PruneUnknownTenants, doc.PruneUnknownPools)
	if req.Keep {
		w.hold(name, h, fn)
		return
	}
	n := w.nextID
	w.ask(name, fn, func(error) { h.over = true })
	if w.nextID > n {
		w.model.once = append(w.model.once, h)
	}
}

func (w *world) desiredTenant(id string) desired.Tenant {
	t := desired.Tenant{TenantID: id, Quotas: w.quota(), Pinned: w.chance(10), Pools: []desired.Pool{}}
	t.Quotas.MaxPools = 3 // as many as it may have: a document is checked against its own quotas
	var pools []mvm.Pool
	for _, p := range []string{"gw", "w", "x"} {
		spec, shrinks := w.poolSpec(p), w.chance(10)
		if was, ok := w.model.pools[id+"/"+p]; ok && !shrinks {
			spec.Resources.DataDiskMiB = max(spec.Resources.DataDiskMiB, was.Spec.Resources.DataDiskMiB)
		}
		if w.chance(60) {
			pools = append(pools, mvm.Pool{Tenant: id, Spec: spec})
		}
	}
	for _, p := range pools { // a document's routes lead to its own pools
		if p.Spec.Routes != nil {
			p.Spec.Routes.Routes = slices.DeleteFunc(p.Spec.Routes.Routes, func(r mvm.Route) bool {
				return !slices.ContainsFunc(pools, func(to mvm.Pool) bool { return to.Spec.ID == r.To.PoolID })
			})
		}
	}
	t.Pools = desired.FromState(nodeID, []mvm.Tenant{{ID: id}}, pools, nil).Tenants[0].Pools
	return t
}

// forget ends that the host is held to a state.
func (w *world) forget() {
	w.hold("forget", w.newHeld(nil), func(ctx context.Context, l *life) error {
		_, err := l.a.Reconcile(ctx, mvm.ReconcileRequest{Forget: true}, nil)
		return err
	})
}

// isPruned reports whether a state that is, or may come to be, in force has the tenant,
// or the pool where that is not empty, destroyed.
func (m *model) isPruned(tenant, pool string) bool {
	prunes := func(h *held) bool { return h.prunes(tenant, pool) }
	return slices.ContainsFunc(m.held, prunes) || slices.ContainsFunc(m.once, prunes)
}

// heldProblem says what a host at rest has otherwise than the state that it is held to.
func (w *world) heldProblem() (why string) {
	w.s.alone(func() {
		info, err := w.life.a.NodeInfo(context.Background())
		if err != nil {
			w.fail("node info without faults: %v", err)
			return
		}
		digest := ""
		if info.Held != nil {
			digest = info.Held.Digest
		}
		n := slices.IndexFunc(w.model.held, func(h *held) bool { return h.digest == digest })
		if n < 0 {
			w.fail("the host is held to %q, which was overtaken or never asked for", digest)
			return
		}
		w.model.held = []*held{w.model.held[n]}
		if doc := w.model.held[0].doc; doc != nil {
			why = w.otherwise(*doc)
		}
	})
	return why
}

// otherwise says what is not as the state says, of the tenants that can be so.
func (w *world) otherwise(doc desired.Document) string {
	ctx := context.Background()
	dry := func(d desired.Document) (steps []mvm.PlanStep, err error) {
		req := mvm.ReconcileRequest{Dry: true}
		if req.State, err = d.Encode(); err != nil {
			return nil, err
		}
		return w.life.a.Reconcile(ctx, req, nil)
	}
	all, err := dry(doc)
	if err == nil {
		return toDo(doc.NodeID, all)
	}
	for _, t := range doc.Tenants {
		one := doc
		one.Tenants, one.PruneUnknownTenants = []desired.Tenant{t}, false
		steps, err := dry(one)
		if err == nil {
			if why := toDo(t.TenantID, steps); why != "" {
				return why
			}
			continue
		}
		if have, _, terr := w.life.a.Tenant(ctx, t.TenantID); terr == nil && have.Problem == "" {
			return fmt.Sprintf("tenant %s is not told that it can't be as the state says: %v", t.TenantID, err)
		}
	}
	return ""
}

func toDo(what string, steps []mvm.PlanStep) string {
	if len(steps) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is held to a desired state, and there is still to do: %+v", what, steps)
}

// stateIsHeld: a host that is held to a state is what it says, whatever else was there
// and whatever is changed, over a death of the agent too, until that is to end.
func (w *world) stateIsHeld(tenant string) {
	doc := desired.Document{SchemaVersion: desired.SchemaVersion, NodeID: nodeID, PruneUnknownTenants: true, PruneUnknownPools: true}
	gw := w.endPool("gw", mvm.RoleGateway)
	gw.Critical = true
	w.do("protect the gateways", func(ctx context.Context, a api.Service) error {
		_, err := a.UpdatePool(ctx, tenant, gw.ID, mvm.PoolUpdate{Spec: &gw})
		return err
	})
	spec := w.endPool(heldPool, mvm.RoleWorker)
	spec.Desired, spec.Pinned = mvm.Counts{Running: 2}, true // the policy lets it run
	doc.Tenants = desired.FromState(nodeID, []mvm.Tenant{{ID: tenant, Quota: mvm.DefaultQuota()}}, []mvm.Pool{{Tenant: tenant, Spec: spec}}, nil).Tenants
	doc.Tenants[0].Network = desired.Network{}
	h := w.newHeld(&doc)
	w.model.held = append(w.model.held, h)
	w.do("hold the host to a state", func(ctx context.Context, a api.Service) error {
		raw, err := doc.Encode()
		if err != nil {
			return err
		}
		_, err = a.Reconcile(ctx, mvm.ReconcileRequest{State: raw, Keep: true}, nil)
		return err
	})
	w.wantHeld(tenant, h)
	w.killAgent()
	w.comeToRest("epilogue: the agent was killed")
	spec.Desired.Running = 0
	w.do("scale by hand", func(ctx context.Context, a api.Service) error {
		_, err := a.UpdatePool(ctx, tenant, spec.ID, mvm.PoolUpdate{Spec: &spec})
		return err
	})
	w.wantHeld(tenant, h)
	w.elapse(15 * time.Minute) // what people did by hand is left alone until now
	w.comeToRest("epilogue: what was done by hand is over")
	w.wantPruned(tenant)
	w.letGoOfState()
}

// letGoOfState has the host held to nothing.
func (w *world) letGoOfState() {
	w.model.held = append(w.model.held, w.newHeld(nil))
	w.do("forget", func(ctx context.Context, a api.Service) error {
		_, err := a.Reconcile(ctx, mvm.ReconcileRequest{Forget: true}, nil)
		return err
	})
}

// wantPruned wants no tenant but this one, and those that are protected.
func (w *world) wantPruned(but string) {
	for _, id := range slices.Sorted(maps.Keys(w.model.tenants)) {
		spared := id == but || w.model.tenants[id].Pinned
		for _, p := range w.model.pools {
			spared = spared || p.Tenant == id && (p.Spec.Pinned || p.Spec.Critical)
		}
		if !spared {
			w.fail("epilogue: tenant %s is there, and the state does not name it", id)
		}
	}
}

// heldPool is the one that the tenant is to have, and has not before.
const heldPool = "h"

// wantHeld wants the tenant to have two running workers and no other pool than theirs
// and the one that is protected, and the host to be held to h.
func (w *world) wantHeld(tenant string, h *held) {
	if len(w.model.held) != 1 || w.model.held[0] != h {
		w.fail("epilogue: the host is not held to the state that was kept last")
	}
	running := 0
	for _, s := range w.model.instances {
		if s.now.Tenant == tenant && s.now.Pool == heldPool && s.now.State == mvm.StateRunning {
			running++
		}
	}
	if running != 2 {
		w.fail("epilogue: %d instances run, and the host is held to 2", running)
	}
	var pools []string
	for _, p := range w.model.pools {
		if p.Tenant == tenant {
			pools = append(pools, p.Spec.ID)
		}
	}
	slices.Sort(pools)
	if want := []string{"gw", heldPool}; !slices.Equal(pools, want) {
		w.fail("epilogue: tenant %s has the pools %v, and should have %v", tenant, pools, want)
	}
}
