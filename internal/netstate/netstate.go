// Package netstate makes the kernel's networks agree with the records of tenants and
// instances, and keeps them so.
package netstate

import (
	"context"
	"sync"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Store reads records.
type Store interface {
	View(fn func(*store.Tx) error) error
}

// Networks are those of the host, as the records say they should be. All methods may be
// called concurrently.
type Networks struct {
	network network.Network
	store   Store

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
func New(n network.Network, s Store) *Networks { return &Networks{network: n, store: s} }

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

// applyNow has the kernel made as the store says, whether or not that is new. The lock
// is held.
func (n *Networks) applyNow(ctx context.Context, version uint64) error {
	if !n.known || n.of != version { // to read every instance takes long on a large host
		cfg, err := n.Config()
		if err != nil {
			return err
		}
		n.cfg, n.of, n.known = cfg, version, true
	}
	if err := n.network.Apply(ctx, n.cfg); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "apply networks: %w", err)
	}
	n.done(version)
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
	var cfg network.Config
	err := n.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, t := range tenants {
			of := network.Tenant{ID: t.ID, NetID: t.NetID, Subnet: t.Subnet, HostPorts: t.HostServices}
			instances, err := tx.Instances(t.ID, "")
			if err != nil {
				return err
			}
			for _, i := range instances {
				of.Instances = append(of.Instances, network.Instance{ID: i.ID, Offset: i.Offset, Gateway: i.Role == mvm.RoleGateway})
			}
			cfg.Tenants = append(cfg.Tenants, of)
		}
		return nil
	})
	return cfg, err
}
