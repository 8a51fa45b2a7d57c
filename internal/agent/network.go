package agent

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/store"
)

// netState says whether the kernel's networks may differ from the store's.
type netState struct {
	applying keyLocks // held while applying
	stateMu  sync.Mutex
	version  uint64 // counts changes of tenants and instances
	applied  uint64
	everDone bool
}

// changed says that tenants or instances came or went.
func (n *netState) changed() {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.version++
}

// forget has the next applyNetwork look at the kernel again.
func (n *netState) forget() {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.everDone = false
}

func (n *netState) stale() (version uint64, stale bool) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	return n.version, !n.everDone || n.version != n.applied
}

func (n *netState) done(version uint64) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.applied, n.everDone = version, true
}

// applyNetwork makes the kernel's networks agree with the store. It costs nothing
// when nothing has changed since the last time.
func (a *Agent) applyNetwork(ctx context.Context) error {
	if _, stale := a.net.stale(); !stale {
		return nil
	}
	defer a.net.applying.lock("networks")()
	version, stale := a.net.stale()
	if !stale {
		return nil
	}
	cfg, err := a.networkConfig()
	if err != nil {
		return err
	}
	if err := a.opt.Network.Apply(ctx, cfg); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "apply networks: %w", err)
	}
	a.net.done(version)
	return nil
}

// keepEvery is how often the kernel's networks are looked at while nothing changes.
const keepEvery = 5 * time.Second

// keepNetworks repairs what others did to the host's networks (a flushed ruleset
// would leave guests unguarded), and publishes what could not be before, for as long
// as the agent runs.
func (a *Agent) keepNetworks() {
	a.every(keepEvery, func() {
		a.net.forget()
		if err := a.applyNetwork(a.ctx); err != nil && a.ctx.Err() == nil {
			a.log.Error("keep networks", "error", err)
		}
		a.keepPublished()
	})
}

// networkConfig is what every network of the host should be.
func (a *Agent) networkConfig() (network.Config, error) {
	var cfg network.Config
	err := a.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, t := range tenants {
			n := network.Tenant{ID: t.ID, NetID: t.NetID, Subnet: t.Subnet, HostPorts: t.HostServices}
			instances, err := tx.Instances(t.ID, "")
			if err != nil {
				return err
			}
			for _, i := range instances {
				n.Instances = append(n.Instances, network.Instance{ID: i.ID, Offset: i.Offset, Gateway: i.Role == mvm.RoleGateway})
			}
			cfg.Tenants = append(cfg.Tenants, n)
		}
		return nil
	})
	return cfg, err
}
