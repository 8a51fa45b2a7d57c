package ingress

import (
	"context"
	"errors"
	"slices"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Seconds after which a gateway's new try may help.
const (
	retryQuota = 10
	retrySoon  = 5
)

// maxAcquired bounds the instances of one answer.
const maxAcquired = 64

// stateOrder says which instance is the quickest to have awake.
var stateOrder = []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped, mvm.StateReady, mvm.StateCreated}

// acquire has an instance of the pool awake and says which.
func (h *Listener) acquire(ctx context.Context, r guestproto.Acquire) guestproto.HostResponse {
	by := h.gatewayAsker()
	if r.Channel != "" { // one of its pool's, as beyondRoutes has seen
		by = mvm.Asker{Kind: mvm.AskerChannel, ID: r.Channel}
	}
	got, err := h.in.acquire(ctx, h.tenant, r, by)
	if err == nil {
		return guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Success: true, Instances: got}}
	}
	why := forGuest(err)
	res := &guestproto.AcquireResult{Detail: &why}
	var limited *newKeysLimited
	res.Failing = errors.As(err, new(*serviceFails)) || h.in.opt.Queue.ServesNobody(err)
	switch mvm.KindOf(err) {
	case mvm.KindQuota: // a gateway of an older version tells its clients: no figures
		why, res.RetrySecs = "the tenant's quota has no room for it; see `mvm events`", retryQuota
	case mvm.KindPolicy:
		if errors.As(err, &limited) {
			res.Limited, res.RetrySecs = true, int(limited.wait/time.Second)+1
		}
	case mvm.KindUnavailable, mvm.KindTimeout, mvm.KindState, mvm.KindInternal:
		res.RetrySecs = retrySoon
	}
	return guestproto.HostResponse{AcquireResult: res}
}

// serviceFails is an error of an instance that runs and serves nobody: a service of it does
// not come up.
type serviceFails struct{ error }

func (e *serviceFails) Unwrap() error { return e.error }

// question is an Acquire that is being answered.
type question struct {
	guestproto.Acquire
	counted bool // its key, as a new one of its source: once, however often it is tried
}

func (in *Ingress) acquire(ctx context.Context, tenant string, asked guestproto.Acquire, by mvm.Asker) ([]guestproto.Awake, error) {
	r := &question{Acquire: asked}
	i, err := in.awaken(ctx, tenant, r, by)
	if mvm.IsKind(err, mvm.KindNotFound) { // it was destroyed meanwhile: there may be another
		i, err = in.awaken(ctx, tenant, r, by)
	}
	if err != nil {
		return nil, err
	}
	awake := []guestproto.Awake{{InstanceID: i.ID, IP: i.IP, Boot: i.DiskGeneration}}
	if !r.Spread {
		return awake, nil
	}
	return in.othersAwake(tenant, r.PoolID, awake)
}

// awaken chooses an instance and has it awake. Where the quota has no room for it,
// instances that were made for keys that nobody vouches for, and served none, give way.
func (in *Ingress) awaken(ctx context.Context, tenant string, r *question, by mvm.Asker) (mvm.Instance, error) {
	i, err := in.tryAwaken(ctx, tenant, r, by)
	for range maxReclaims {
		if !mvm.IsKind(err, mvm.KindQuota) || !in.reclaim(ctx, tenant, r.Acquire, by) {
			break
		}
		i, err = in.tryAwaken(ctx, tenant, r, by)
	}
	return i, err
}

func (in *Ingress) tryAwaken(ctx context.Context, tenant string, r *question, by mvm.Asker) (mvm.Instance, error) {
	first, claimed, err := in.choose(ctx, tenant, r, by)
	if err != nil {
		return first, err
	}
	if s := in.opt.Instances.GaveUp(first); s != nil && !first.Ready {
		return first, &serviceFails{mvm.Errorf(mvm.KindUnavailable, "instance %s: service %s is %s", first.ID, s.Name, s.Text())}
	}
	if why := in.opt.Instances.Stalled(first.ID); why != "" {
		return first, mvm.Errorf(mvm.KindUnavailable, "instance %s: %w", first.ID, mvm.HostFault(errors.New(why)))
	}
	defer in.acquiring.add(first.ID)()
	i, err := in.opt.Queue.Wake(ctx, first.ID, by, wakeReason(r.Acquire))
	switch { // a wake under way may have configured it before it was claimed
	case claimed && err == nil:
		err = in.opt.Deliver.Push(ctx, i)
	case claimed: // and goes on without who has claimed it
		in.opt.Deliver.Owe(first.ID)
	}
	return i, err
}

// wakeReason is what the record of a wake says.
func wakeReason(r guestproto.Acquire) string {
	if r.Channel != "" {
		return "a message for " + r.PoolID
	}
	return "a request for " + r.PoolID
}

// othersAwake adds the instances of the pool that take traffic as well.
func (in *Ingress) othersAwake(tenant, pool string, awake []guestproto.Awake) ([]guestproto.Awake, error) {
	return awake, in.opt.Store.View(func(tx *store.Tx) error {
		all, err := tx.Instances(tenant, pool)
		for _, i := range all {
			if i.ID != awake[0].InstanceID && i.Key == "" && i.State == mvm.StateRunning && i.Ready && i.Op == nil && len(awake) < maxAcquired {
				awake = append(awake, guestproto.Awake{InstanceID: i.ID, IP: i.IP, Boot: i.DiskGeneration})
			}
		}
		return err
	})
}

// choose picks the instance that a request means; for a key without one it gives
// the key a spare of the pool, or makes one, within the quota. claimed says that
// a spare has become the key's just now.
func (in *Ingress) choose(ctx context.Context, tenant string, r *question, by mvm.Asker) (i mvm.Instance, claimed bool, err error) {
	if err := mvm.ValidateName("pool", r.PoolID); err != nil {
		return i, false, err
	}
	if r.InstanceID != "" && (r.Key != "" || r.Spread) {
		return i, false, mvm.Errorf(mvm.KindInvalid, "acquire an instance of pool %s: it is named by its id and in another way", r.PoolID)
	}
	if r.Key == "" {
		err = in.opt.Store.View(func(tx *store.Tx) error {
			i, err = pick(tx, tenant, r.Acquire)
			return err
		})
		return i, false, err
	}
	if err := mvm.ValidateKey(r.Key); err != nil {
		return i, false, err
	}
	err = in.opt.Store.View(func(tx *store.Tx) (err error) {
		i, err = tx.InstanceByKey(tenant, r.PoolID, r.Key)
		return err
	})
	if !mvm.IsKind(err, mvm.KindNotFound) {
		return i, false, err
	}
	if err := in.allowNewKey(ctx, tenant, r, by); err != nil {
		return i, false, err
	}
	return in.claim(ctx, tenant, r.PoolID, r.Key, r.Source.IsValid(), by)
}

// pick chooses among instances that belong to no key, or the one that is named.
func pick(tx *store.Tx, tenant string, r guestproto.Acquire) (mvm.Instance, error) {
	all, err := tx.Instances(tenant, r.PoolID)
	if err != nil {
		return mvm.Instance{}, err
	}
	best, rank := mvm.Instance{}, len(stateOrder)
	for _, i := range all {
		if namesOne(r) && (r.IP == i.IP || !r.IP.IsValid()) && (r.InstanceID == i.ID || r.InstanceID == "") {
			return i, nil
		}
		n := slices.Index(stateOrder, i.State)
		if i.Op != nil && i.Op.Kind == mvm.OpDestroy {
			continue
		}
		if namesOne(r) || i.Key != "" || n < 0 || n > rank || n == rank && !preferred(i, best) {
			continue
		}
		best, rank = i, n
	}
	if best.ID == "" {
		return best, mvm.Errorf(mvm.KindNotFound, "pool %s/%s has no such instance", tenant, r.PoolID)
	}
	return best, nil
}

// namesOne reports that the question is for one instance, by its address, id or both.
func namesOne(r guestproto.Acquire) bool { return r.IP.IsValid() || r.InstanceID != "" }

// preferred: of two in the same state a ready one, and one that is not on its way
// elsewhere.
func preferred(i, than mvm.Instance) bool {
	if (i.Op == nil) != (than.Op == nil) {
		return i.Op == nil
	}
	return i.Ready && !than.Ready
}

// claim gives the key an instance of the pool, in one transaction, so that two
// requests at once get the same. unproven: nobody vouches for the key.
func (in *Ingress) claim(ctx context.Context, tenant, pool, key string, unproven bool, by mvm.Asker) (i mvm.Instance, claimed bool, err error) {
	made := false
	err = in.opt.Store.Update(func(tx *store.Tx) error {
		claimed, made = false, false
		if i, err = tx.InstanceByKey(tenant, pool, key); !mvm.IsKind(err, mvm.KindNotFound) {
			return err
		}
		claimed = true
		if i, err = pick(tx, tenant, guestproto.Acquire{PoolID: pool}); err == nil {
			i.Key, i.Unproven = key, unproven
			return tx.PutInstance(i)
		}
		if !mvm.IsKind(err, mvm.KindNotFound) {
			return err
		}
		made = true
		i, err = in.opt.Fleet.NewInstance(tx, tenant, pool, key, mvm.Op{Kind: mvm.OpCreate, By: by, Why: "first request of its key", Started: time.Now(),
			Request: mvm.RequestFrom(ctx)})
		if err == nil && unproven {
			i.Unproven = true
			err = tx.PutInstance(i)
		}
		return err
	})
	if mvm.IsKind(err, mvm.KindQuota) {
		in.opt.Journal.Record(mvm.Event{Time: time.Now(), Action: mvm.QuotaExceeded, Tenant: tenant, Pool: pool, By: by, Detail: err.Error(), Request: mvm.RequestFrom(ctx)})
	}
	if err == nil && made {
		in.opt.Fleet.Changed()
	}
	return i, claimed && !made, err
}
