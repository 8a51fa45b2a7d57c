// Package netstate makes the kernel's networks agree with the records of tenants and
// instances, and keeps them so.
package netstate

import (
	"context"
	"sync"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Store reads records.
type Store interface {
	View(fn func(*store.Tx) error) error
}

// Resolver answers guests' questions for names.
type Resolver interface {
	// Follow takes the guests of a Config that is about to be applied, and Applied listens for
	// them when it is. changed: Serves is another for one of the tenants.
	Follow(cfg network.Config)
	Applied(ctx context.Context) (changed bool)
	// Serves reports whether the tenant's guests can ask, as far as is known.
	Serves(tenant string) bool
}

// Networks are those of the host, as the records say they should be. All methods may be
// called concurrently.
type Networks struct {
	network  network.Network
	store    Store
	resolver Resolver

	applying wait.Locks // held while applying
	stateMu  sync.Mutex
	version  uint64 // counts changes of tenants and instances
	applied  uint64
	everDone bool

	// What the networks should be, as of the version. applying is held.
	cfg   network.Config
	of    uint64
	known bool
	looks int
}

// New are networks that were not applied yet.
// r answers the guests of closed tenants; nil: nobody does.
func New(n network.Network, s Store, r Resolver) *Networks {
	return &Networks{network: n, store: s, resolver: r}
}

// Changed says that tenants or instances came or went.
func (n *Networks) Changed() {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.version++
}

func (n *Networks) stale() (version uint64, stale bool) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	return n.version, !n.everDone || n.version != n.applied
}

func (n *Networks) done(version uint64) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.applied, n.everDone = version, true
}

// Apply makes the kernel's networks agree with the store. It costs nothing
// when nothing has changed since the last time.
func (n *Networks) Apply(ctx context.Context) error {
	if _, stale := n.stale(); !stale {
		return nil
	}
	defer n.applying.Lock("networks")()
	version, stale := n.stale()
	if !stale {
		return nil
	}
	return n.applyNow(ctx, version)
}

// applyNow has the kernel made as the store says, whether or not that is new, and has guests'
// questions for names answered. The lock is held.
func (n *Networks) applyNow(ctx context.Context, version uint64) error {
	if err := n.applyOnce(ctx, version); err != nil {
		return err
	}
	if n.resolver != nil && n.resolver.Applied(ctx) { // a port that nobody listens at is closed
		n.known = false
		if err := n.applyOnce(ctx, version); err != nil {
			return err
		}
	}
	n.done(version)
	return nil
}

func (n *Networks) applyOnce(ctx context.Context, version uint64) error {
	if !n.known || n.of != version { // to read every instance takes long on a large host
		cfg, err := n.Config()
		if err != nil {
			return err
		}
		n.cfg, n.of, n.known = cfg, version, true
		if n.resolver != nil {
			n.resolver.Follow(cfg)
		}
	}
	if err := n.network.Apply(ctx, n.cfg); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "apply networks: %w", err)
	}
	return nil
}

// readsAfter is after how many looks the store is read anew, whether or not something
// changed.
const readsAfter = 12

// Look repairs what others did to the host's networks: a flushed ruleset would leave guests
// unguarded. Operations go on beside it, by what was applied last.
func (n *Networks) Look(ctx context.Context) error {
	defer n.applying.Lock("networks")()
	if n.looks++; n.looks%readsAfter == 0 {
		n.known = false
	}
	version, _ := n.stale()
	return n.applyNow(ctx, version)
}

// Config is what every network of the host should be.
func (n *Networks) Config() (network.Config, error) {
	cfg := network.Config{}
	err := n.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, t := range tenants {
			pools, err := tx.Pools(t.ID)
			if err != nil {
				return err
			}
			instances, err := tx.Instances(t.ID, "")
			if err != nil {
				return err
			}
			of := tenantOf(t, pools, instances)
			of.Resolver = t.Closed && n.resolver != nil && n.resolver.Serves(t.ID)
			cfg.Tenants = append(cfg.Tenants, of)
		}
		return nil
	})
	return cfg, err
}

// tenantOf is a tenant's network. Only in a closed one do egress and peers of pools count.
func tenantOf(t mvm.Tenant, pools []mvm.Pool, instances []mvm.Instance) network.Tenant {
	of := network.Tenant{ID: t.ID, NetID: t.NetID, Subnet: t.Subnet, HostPorts: t.HostServices, Closed: t.Closed}
	peers, lists := map[string]bool{}, map[string]int{}
	for _, p := range pools {
		peers[p.Spec.ID] = p.Spec.Peers
		list, err := egress.ParseAll(p.Spec.Egress)
		if err == nil && len(list) > 0 && t.Closed { // a list that is not valid opens nothing
			of.Egress = append(of.Egress, list)
			lists[p.Spec.ID] = len(of.Egress)
		}
	}
	for _, i := range instances {
		gateway := i.Role == mvm.RoleGateway
		of.Instances = append(of.Instances, network.Instance{ID: i.ID, Offset: i.Offset, Gateway: gateway,
			Alone: t.Closed && i.Key != "" && !gateway && !peers[i.Pool], Egress: lists[i.Pool]})
	}
	return of
}
