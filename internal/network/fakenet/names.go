package fakenet

import (
	"context"
	"maps"
	"net/netip"
	"os"

	"mvm"
	"mvm/internal/network"
)

var _ network.Names = (*Network)(nil)

// OpenResolver listens at ports of the loopback address that the kernel chooses.
func (n *Network) OpenResolver(ctx context.Context, tenant string) (udp, tcp *os.File, err error) {
	if err := n.begin(ctx, OpOpenResolver); err != nil {
		return nil, nil, err
	}
	defer n.mu.Unlock()
	if _, err := n.cfg.Resolver(tenant); err != nil {
		return nil, nil, err
	}
	return network.ListenResolver(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0))
}

// Admit notes the addresses.
func (n *Network) Admit(ctx context.Context, tenant, instance string, list []network.Admission) error {
	if err := network.CheckAdmissions(list); err != nil {
		return err
	}
	if err := n.begin(ctx, OpAdmit); err != nil {
		return err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	if err != nil {
		return err
	}
	if !t.Named(i) {
		return mvm.Errorf(mvm.KindState, "open addresses for %s: its egress has no names", instance)
	}
	if err := n.roomFor(t, instance, list); err != nil {
		return err
	}
	if n.admitted == nil {
		n.admitted = map[string]map[netip.Addr]network.Admission{}
	}
	if n.admitted[instance] == nil {
		n.admitted[instance] = map[netip.Addr]network.Admission{}
	}
	for _, a := range list {
		n.admitted[instance][a.Address] = a
	}
	return nil
}

// roomFor refuses what would open more for the tenant than it may have. Nothing ends here.
func (n *Network) roomFor(t network.Tenant, instance string, list []network.Admission) error {
	all := 0
	for _, i := range t.Instances {
		all += len(n.admitted[i.ID])
	}
	for _, a := range list {
		if _, open := n.admitted[instance][a.Address]; !open {
			all++
		}
	}
	if all > network.MaxTenantAdmissions {
		return mvm.Errorf(mvm.KindQuota, "open addresses: %d for guests of tenant %s are more than %d", all, t.ID, network.MaxTenantAdmissions)
	}
	return nil
}

// Admitted returns what was opened for the instance last, by address.
func (n *Network) Admitted(instance string) map[netip.Addr]network.Admission {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.admitted[instance])
}

var _ network.Counters = (*Network)(nil)

// Dropped is described at network.Counters: what Drop said.
func (n *Network) Dropped(_ context.Context, tenant, instance string) (network.Drops, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, _, err := n.cfg.Find(tenant, instance)
	return n.drops[instance], err
}

// Drop says what was dropped of the instance.
func (n *Network) Drop(instance string, d network.Drops) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drops == nil {
		n.drops = map[string]network.Drops{}
	}
	n.drops[instance] = d
}
