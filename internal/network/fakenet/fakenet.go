// Package fakenet is a Network in memory, with the rules of the real one and knobs
// that make one operation fail or wait, for tests and simulations without root.
package fakenet

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/network"
)

// Op names an operation for the knobs.
type Op string

// The operations.
const (
	OpApply   Op = "apply"
	OpOpenTAP Op = "open-tap"
	OpSweep   Op = "sweep"
	OpVerify  Op = "verify"

	OpOccupied Op = "occupied"
	OpClose    Op = "close"

	OpOpenResolver Op = "open-resolver"
	OpAdmit        Op = "admit"
)

// Network is a network.Network in memory. A TAP is a pipe: the caller gets the
// writing end, and the TAP is gone when every process has closed it. The zero value
// is not ready, use New. It is safe for concurrent use.
type Network struct {
	mu       sync.Mutex
	cfg      network.Config
	applied  bool
	bridges  map[string]bool
	taps     map[string]*os.File // the reading end, by TAP name
	left     map[string]bool     // what a former agent left behind
	findings []network.Finding
	occupied []network.Range
	fail     map[Op]failure
	delay    map[Op]time.Duration
	calls    map[Op]int
	changes  int
	closed   bool
	admitted map[string]map[netip.Addr]network.Admission
	drops    map[string]network.Drops
}

type failure struct {
	err   error
	times int // <0: for good
}

var _ network.Network = (*Network)(nil)

// New returns an empty Network.
func New() *Network {
	return &Network{
		bridges: map[string]bool{}, taps: map[string]*os.File{}, left: map[string]bool{},
		fail: map[Op]failure{}, delay: map[Op]time.Duration{}, calls: map[Op]int{},
	}
}

// Apply takes the Config over after checking it.
func (n *Network) Apply(ctx context.Context, cfg network.Config) error {
	if err := n.begin(ctx, OpApply); err != nil {
		return err
	}
	defer n.mu.Unlock()
	if err := cfg.Validate(); err != nil {
		return err
	}
	if !n.cfg.Equal(cfg) {
		n.changes++
	}
	n.cfg, n.applied = cfg.Clone(), true
	clear(n.bridges)
	for _, t := range cfg.Tenants {
		n.bridges[mvm.BridgeName(t.NetID)] = true
		delete(n.left, mvm.BridgeName(t.NetID))
	}
	return nil
}

// OpenTAP makes the instance's TAP. It refuses, with kind state, while the last one
// is held open by anybody.
func (n *Network) OpenTAP(ctx context.Context, tenant, instance string, _ int) (*os.File, error) {
	if err := n.begin(ctx, OpOpenTAP); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	if err != nil {
		return nil, err
	}
	name := mvm.TAPName(t.NetID, i.Offset)
	n.reap()
	if n.taps[name] != nil || n.left[name] {
		return nil, mvm.Errorf(mvm.KindState, "open TAP %s of instance %s: it is held by another process", name, instance).
			WithFix("end the VMM that holds it first")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open TAP %s of instance %s: %w", name, instance, err)
	}
	n.taps[name] = r
	n.changes++
	return w, nil
}

// Sweep removes TAPs and left-overs that the Config does not own.
func (n *Network) Sweep(ctx context.Context) ([]string, error) {
	if err := n.begin(ctx, OpSweep); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	if !n.applied {
		return nil, mvm.Errorf(mvm.KindState, "sweep network: no config was applied yet, so everything would be removed").
			WithFix("apply the host's config first")
	}
	n.reap()
	owned := map[string]bool{}
	for _, t := range n.cfg.Tenants {
		for _, i := range t.Instances {
			owned[mvm.TAPName(t.NetID, i.Offset)] = true
		}
	}
	var removed []string
	for name, r := range n.taps {
		if !owned[name] {
			_ = r.Close()
			delete(n.taps, name)
			removed = append(removed, name)
		}
	}
	for name := range n.left {
		if !owned[name] {
			delete(n.left, name)
			removed = append(removed, name)
		}
	}
	n.changes += len(removed)
	slices.Sort(removed)
	return removed, nil
}

// Verify returns the findings set by SetFindings and one per left-over.
func (n *Network) Verify(ctx context.Context) ([]network.Finding, error) {
	if err := n.begin(ctx, OpVerify); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	out := slices.Clone(n.findings)
	for _, t := range n.cfg.Tenants {
		if r, found := network.Overlapping(n.occupied, t.Subnet); found {
			out = append(out, network.Finding{Severity: "error", What: r.What + " overlaps the subnet " + t.Subnet.String() + " of tenant " + t.ID,
				Where: mvm.BridgeName(t.NetID), Fix: "give the tenant another subnet"})
		}
	}
	for _, name := range n.extra() {
		out = append(out, network.Finding{Severity: "error", What: "belongs to no tenant", Where: name, Fix: "sweep the network"})
	}
	return out, nil
}

// Occupied returns what SetOccupied has set.
func (n *Network) Occupied(ctx context.Context) ([]network.Range, error) {
	if err := n.begin(ctx, OpOccupied); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return slices.Clone(n.occupied), nil
}

// Close closes the Network's ends of the TAPs; every later operation fails.
func (n *Network) Close() error {
	if err := n.begin(context.Background(), OpClose); err != nil {
		return err
	}
	defer n.mu.Unlock()
	for _, r := range n.taps {
		_ = r.Close()
	}
	clear(n.taps)
	n.closed = true
	return nil
}
