package agent

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// netState says whether the kernel's networks may differ from the store's.
type netState struct {
	applying wait.Locks // held while applying
	stateMu  sync.Mutex
	version  uint64 // counts changes of tenants and instances
	applied  uint64
	everDone bool

	// What the networks should be, as of the version. applying is held.
	cfg   network.Config
	of    uint64
	known bool
}

// changed says that tenants or instances came or went.
func (n *netState) changed() {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.version++
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
	defer a.net.applying.Lock("networks")()
	version, stale := a.net.stale()
	if !stale {
		return nil
	}
	return a.applyNow(ctx, version)
}

// applyNow has the kernel made as the store says, whether or not that is new. The lock
// is held.
func (a *Agent) applyNow(ctx context.Context, version uint64) error {
	n := &a.net
	if !n.known || n.of != version { // to read every instance takes long on a large host
		cfg, err := a.networkConfig()
		if err != nil {
			return err
		}
		n.cfg, n.of, n.known = cfg, version, true
	}
	if err := a.opt.Network.Apply(ctx, n.cfg); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "apply networks: %w", err)
	}
	n.done(version)
	return nil
}

// keepEvery is how often the kernel's networks are looked at while nothing changes, and
// keepReads after how many looks the store is read anew all the same.
const (
	keepEvery = 5 * time.Second
	keepReads = 12
)

// keepNetworks repairs what others did to the host's networks (a flushed ruleset
// would leave guests unguarded), publishes what could not be before and follows the
// host's resolvers, for as long as the agent runs. Operations go on beside it, by what was applied last.
func (a *Agent) keepNetworks() {
	looks := 0
	wait.Every(a.ctx, keepEvery, func() {
		looks++
		if err := a.lookAtNetworks(looks%keepReads == 0); err != nil && a.ctx.Err() == nil {
			a.log.Error("keep networks", "error", err)
		}
		a.ingress.RetryPublish()
		a.deliver.FollowResolvers(a.ctx)
	})
}

func (a *Agent) lookAtNetworks(read bool) error {
	defer a.net.applying.Lock("networks")()
	if read {
		a.net.known = false
	}
	version, _ := a.net.stale()
	return a.applyNow(a.ctx, version)
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
