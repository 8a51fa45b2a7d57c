package declare

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/display"
	"mvm/internal/plan"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// metaKept is where the state is kept that the host is held to.
const metaKept = "desired_kept"

// converging bounds the tenants that one request has made so at the same time.
const converging = 8

// kept is a desired state that the agent holds its host to.
type kept struct {
	State desired.Document `json:"state"`
	// Signed: it was accepted because of its signature.
	Signed bool      `json:"signed,omitempty"`
	By     mvm.Asker `json:"by"`
	At     time.Time `json:"at"`
}

// Reconcile makes the host what a desired state says, or what is on record already, or ends
// that it is held to a state.
func (c *Declarer) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	progress = oneAtATime(progress)
	switch {
	case req.Forget:
		return nil, c.forget(ctx)
	case len(req.State) == 0:
		return c.reconcileRecord(ctx, req, progress)
	}
	doc, accept, err := c.readState(req.State)
	if err != nil {
		return nil, err
	}
	h, done, err := c.applyState(ctx, doc, req, acceptance{signed: accept}, progress)
	if err != nil || req.Dry {
		return done, err
	}
	if req.NoWait {
		return done, plan.LeftAlone(h.unpruned())
	}
	c.opt.Deliver.Owed(ctx, h.names())
	more, err := c.convergeAll(ctx, h.names(), progress)
	if alone := plan.LeftAlone(h.unpruned()); alone != nil {
		err = errors.Join(err, alone)
	}
	return append(done, more...), err
}

// applyState puts the state on record, or says what that would do.
func (c *Declarer) applyState(ctx context.Context, doc desired.Document, req mvm.ReconcileRequest, accept acceptance, progress func(mvm.Progress)) (hostPlan, []mvm.PlanStep, error) {
	defer c.states.Lock("state")()
	h, err := c.planHost(ctx, doc, req.Force)
	if err == nil {
		err = h.refused()
	}
	if err == nil && !req.Keep {
		err = c.checkHeld(doc, req.Dry, &h)
	}
	if err != nil {
		return h, nil, err
	}
	h.tell(progress)
	if req.Dry {
		return h, h.display(), h.tellAlone(progress)
	}
	if err := c.keepState(ctx, doc, req.Keep, accept); err != nil {
		return h, nil, err
	}
	done, faults := c.applyHost(ctx, h, progress)
	return h, done, joined(faults)
}

// checkHeld refuses to apply a state once to a host that is held to another, which
// would undo it. A dry run tells of that only.
func (c *Declarer) checkHeld(doc desired.Document, dry bool, h *hostPlan) error {
	k, err := c.keptState()
	if err != nil || k == nil {
		return err
	}
	kept, err := k.State.Encode()
	if err != nil {
		return err
	}
	this, err := doc.Encode()
	if err != nil || bytes.Equal(kept, this) {
		return err
	}
	if dry {
		h.note(doc.NodeID, "the host is kept at another state: use `--keep` for this one")
		return nil
	}
	return mvm.Errorf(mvm.KindState, "apply desired state once: the host is kept at another state, which would undo it").
		WithFix("keep the host at this one with `--keep`, or run `mvm agent reconcile --forget` first")
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
func (c *Declarer) readState(state []byte) (doc desired.Document, accept func(*store.Tx) error, err error) {
	node, err := c.opt.NodeID()
	if err != nil {
		return doc, nil, err
	}
	if c.opt.Trust.SignedOnly || desired.IsSigned(state) {
		return c.signedState(node, state)
	}
	if doc, err = desired.Decode(state); err == nil && doc.NodeID != node {
		err = mvm.Errorf(mvm.KindPolicy, "desired state is for node %q, and this is %q", doc.NodeID, node).
			WithFix("see `mvm node info`; `mvm agent desired` prints the state of this host")
	}
	return doc, nil, err
}

// acceptance is what has a state remembered, within the transaction that it gets.
type acceptance struct {
	signed func(*store.Tx) error // nil: it was not accepted because of a signature
	also   func(*store.Tx) error // nil: nothing else
}

// keepState remembers what was accepted, before anything is changed.
func (c *Declarer) keepState(ctx context.Context, doc desired.Document, keep bool, accept acceptance) error {
	if !keep && accept.signed == nil {
		return nil
	}
	raw, err := json.Marshal(kept{State: doc, Signed: accept.signed != nil, By: mvm.AskerFrom(ctx), At: time.Now()})
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "keep desired state: %w", err)
	}
	return c.opt.Store.Update(func(tx *store.Tx) error {
		for _, remember := range []func(*store.Tx) error{accept.signed, accept.also} {
			if remember == nil {
				continue
			}
			if err := remember(tx); err != nil {
				return err
			}
		}
		if !keep {
			return nil
		}
		if err := tx.PutMeta(metaKept, string(raw)); err != nil {
			return err
		}
		return c.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.StateKept, Detail: stateDigest(doc)})
	})
}

// keptState is the state that the host is held to, nil when there is none.
func (c *Declarer) keptState() (*kept, error) {
	var raw string
	err := c.opt.Store.View(func(tx *store.Tx) (err error) {
		raw, _, err = tx.Meta(metaKept)
		return err
	})
	if err != nil || raw == "" {
		return nil, err
	}
	var k kept
	if err := json.Unmarshal([]byte(raw), &k); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read the desired state that is kept: %w", err).
			WithFix("apply a state again with `--keep`, or run `mvm agent reconcile --forget`")
	}
	return &k, nil
}

// Held tells of the state that is kept, nil when there is none.
func (c *Declarer) Held() (*mvm.HeldState, error) {
	k, err := c.keptState()
	if err != nil || k == nil {
		return nil, err
	}
	digest := stateDigest(k.State)
	return &mvm.HeldState{Digest: digest, By: k.By, At: k.At, Signed: k.Signed}, nil
}

// stateDigest names a desired state, by its canonical form; empty where it has none.
func stateDigest(doc desired.Document) string {
	raw, err := doc.Encode()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// reconcileRecord makes the host, or one tenant, what is on record.
func (c *Declarer) reconcileRecord(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	names := []string{req.Tenant}
	if req.Tenant == "" {
		tenants, err := c.opt.Records.Tenants(ctx)
		if err != nil {
			return nil, err
		}
		names = nil
		for _, t := range tenants {
			names = append(names, t.ID)
		}
	} else if _, _, err := c.opt.Records.Tenant(ctx, req.Tenant); err != nil {
		return nil, err
	}
	if !req.Dry {
		if req.Force {
			if err := c.takeOver(ctx, names); err != nil {
				return nil, err
			}
		}
		if req.NoWait {
			for _, n := range names {
				c.opt.Reconcile.Changed(n, "")
			}
			return nil, nil
		}
		return c.convergeAll(ctx, names, progress)
	}
	var out []mvm.PlanStep
	var steps []plan.Step
	var alone []plan.Alone
	for _, n := range names {
		o, err := c.opt.Reconcile.Observe(n)
		if err != nil {
			return nil, err
		}
		if req.Force {
			o = o.TakenOver()
		}
		p := plan.Keep(o)
		steps, alone = append(steps, p.Steps...), append(alone, p.Alone...)
		out = append(out, p.Display()...)
		tellNotes(p, n, progress)
		if err := c.tellProblems(ctx, n, progress); err != nil {
			return nil, err
		}
	}
	return out, tellAlone(steps, alone, progress)
}

// takeOver ends the overrides of all instances of the tenants.
func (c *Declarer) takeOver(ctx context.Context, tenants []string) error {
	for _, t := range tenants {
		if err := c.opt.Records.TakeOver(ctx, mvm.Address{Tenant: t}); err != nil {
			return err
		}
	}
	return nil
}

// tellAlone ends a dry run: where it has no steps, what is left alone is its error.
func tellAlone(steps []plan.Step, alone []plan.Alone, progress func(mvm.Progress)) error {
	if len(steps) == 0 {
		return plan.LeftAlone(alone)
	}
	for _, i := range alone {
		progress(mvm.Progress{Target: i.Target.Tenant, Text: i.String()})
	}
	return nil
}

// tellProblems tells what is wrong with the tenant now, which no step of a plan mends.
func (c *Declarer) tellProblems(ctx context.Context, tenant string, progress func(mvm.Progress)) error {
	problems, err := c.opt.Reconcile.Problems(ctx, tenant)
	for _, p := range problems {
		progress(mvm.Progress{Target: tenant, Text: display.WithoutLog(p.Error())})
	}
	return err
}

func tellNotes(p plan.Plan, tenant string, progress func(mvm.Progress)) {
	for _, n := range p.Notes {
		progress(mvm.Progress{Target: tenant, Text: n})
	}
}

// convergeAll waits until every one of the tenants is as its records say.
func (c *Declarer) convergeAll(ctx context.Context, tenants []string, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	steps, errs := make([][]mvm.PlanStep, len(tenants)), make([]error, len(tenants))
	order := make([]int, len(tenants))
	for n := range order {
		order[n] = n
	}
	wait.Each(order, converging, func(n int) { steps[n], errs[n] = c.opt.Reconcile.Converge(ctx, tenants[n], progress) })
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return slices.Concat(steps...), errs[0]
	}
	return slices.Concat(steps...), errors.Join(errs...)
}

// Desired returns the desired state that would recreate this host.
func (c *Declarer) Desired() (json.RawMessage, error) {
	node, err := c.opt.NodeID()
	if err != nil {
		return nil, err
	}
	var tenants []mvm.Tenant
	var pools []mvm.Pool
	sealed := map[string][]byte{}
	err = c.opt.Store.View(func(tx *store.Tx) (err error) {
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
		if hashes[t.ID], err = c.opt.Records.SecretsHash(t, sealed[t.ID]); err != nil {
			return nil, err
		}
	}
	return desired.FromState(node, tenants, pools, func(id string) string { return hashes[id] }).Encode()
}
