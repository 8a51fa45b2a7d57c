package ingress

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/ratetable"
	"mvm/internal/store"
)

// Bounds of new keys that nobody vouches for, from one source.
const (
	newKeyBurst = 20
	newKeyEvery = 6 * time.Second
	keySources  = 1024 // of one tenant
)

// maxReclaims bounds the instances that give way to one question.
const maxReclaims = 3

// unprovenGrace is how long an instance that served nothing yet is left alone after its
// last use: its user may be about to try again.
const unprovenGrace = 30 * time.Second

// newKeys counts new keys by tenant and source.
type newKeys struct {
	mu sync.Mutex
	by map[string]*ratetable.Table
}

// newKeysLimited says that a source has to wait before it may name another new key.
type newKeysLimited struct{ wait time.Duration }

func (e *newKeysLimited) Error() string {
	return fmt.Sprintf("too many new keys from its source: %d at once, and one every %s", newKeyBurst, newKeyEvery)
}

func (n *newKeys) allow(tenant string, r guestproto.Acquire, now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = map[string]*ratetable.Table{}
	}
	t := n.by[tenant]
	if t == nil {
		maps.DeleteFunc(n.by, func(_ string, t *ratetable.Table) bool { return t.Idle(now) }) // their tenants may be gone
		t = &ratetable.Table{Burst: newKeyBurst, Every: newKeyEvery, Max: keySources}
		n.by[tenant] = t
	}
	if wait, ok := t.Allow(r.Source, now); !ok {
		return mvm.Errorf(mvm.KindPolicy, "instance for a new key in %s/%s: %w", tenant, r.PoolID, &newKeysLimited{wait})
	}
	return nil
}

// allowNewKey refuses a key that is new where its source named too many of them.
func (in *Ingress) allowNewKey(ctx context.Context, tenant string, r *question, by mvm.Asker) error {
	if !r.Source.IsValid() || r.counted {
		return nil // its user is authenticated, or it is tried again
	}
	err := in.newKeys.allow(tenant, r.Acquire, time.Now())
	r.counted = err == nil
	if err != nil {
		in.opt.Journal.Record(mvm.Event{Time: time.Now(), Action: mvm.WakeRefused, Tenant: tenant, Pool: r.PoolID, By: by, Why: "Acquire",
			Detail: "source " + r.Source.String() + ": " + err.Error(), Request: mvm.RequestFrom(ctx)})
	}
	return err
}

// reclaim destroys an instance of the tenant that was made for a key that nobody vouches
// for, never answered a request of it with success, and is in nobody's use: of the same
// pool and in memory before others, and the longest unused first. The one that is asked
// for is none of them, and where that is there already it lacks memory, which only those
// that hold some can give. false: there is none.
func (in *Ingress) reclaim(ctx context.Context, tenant string, r guestproto.Acquire, by mvm.Asker) bool {
	var all []mvm.Instance
	err := in.opt.Store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances(tenant, "")
		return err
	})
	if err != nil {
		in.opt.Log.Error("look for an instance to reclaim", "tenant", tenant, "error", err)
		return false
	}
	own := func(i mvm.Instance) bool { return i.Pool == r.PoolID && i.Key == r.Key }
	there := r.Key == "" || slices.ContainsFunc(all, own)
	all = slices.DeleteFunc(all, func(i mvm.Instance) bool {
		return !in.reclaimable(i) || own(i) || there && !i.State.HoldsMemory()
	})
	if len(all) == 0 {
		return false
	}
	rank := func(i mvm.Instance) (n int) {
		if i.Pool != r.PoolID {
			n += 2
		}
		if !i.State.HoldsMemory() {
			n++
		}
		return n
	}
	victim := slices.MinFunc(all, func(x, y mvm.Instance) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), in.lastUse(x).Compare(in.lastUse(y)))
	})
	if err := in.opt.Queue.Reclaim(ctx, victim.ID, by, "it never served its key, and another needs the room"); err != nil {
		in.opt.Log.Warn("reclaim an instance", "instance", victim.ID, "error", err)
		return false
	}
	return true
}

func (in *Ingress) reclaimable(i mvm.Instance) bool {
	use, _ := in.activity.of(i.ID)
	return i.Unproven && i.Key != "" && i.Op == nil && use.Open == 0 && in.acquiring.of(i.ID) == 0 && in.execs.of(i.ID) == 0 &&
		time.Since(in.lastUse(i)) > unprovenGrace && !i.ManualOverrideUntil.After(time.Now())
}

// lastUse is when the instance was used last, or came up. One that rests was idle before.
func (in *Ingress) lastUse(i mvm.Instance) time.Time {
	use, _ := in.activity.of(i.ID)
	since := i.Changed
	if i.State == mvm.StateWarm || i.State == mvm.StateSleeping {
		since = i.Created
	}
	if use.Last.After(since) {
		return use.Last
	}
	return since
}

// prove notes which instances answered a request of their key, by a gateway's report.
func (h *Listener) prove(routes reach, acts []guestproto.Activity) {
	for _, act := range acts[:min(len(acts), maxActivity)] {
		if !act.Answered || mvm.ValidateInstanceID(act.InstanceID) != nil || !h.counts(routes, act) {
			continue
		}
		if i, err := h.findID(act.InstanceID); err != nil || !i.Unproven {
			continue
		}
		err := h.in.opt.Store.Update(func(tx *store.Tx) error {
			i, err := tx.Instance(act.InstanceID)
			if err != nil || !i.Unproven {
				return err
			}
			i.Unproven = false
			return tx.PutInstance(i)
		})
		if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
			h.in.opt.Log.Error("note that an instance served its key", "instance", act.InstanceID, "error", err)
		}
	}
}
