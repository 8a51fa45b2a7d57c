package linuxnet

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
)

// Apply makes rules and bridges agree with the Config: first the rules, in one
// transaction, then the bridges. When the Config is the one in force and nobody has
// touched nftables since, it only asks the kernel for a number (some 20 µs), so it
// may be called before every wake and every few seconds as a guard.
func (n *Network) Apply(ctx context.Context, cfg network.Config) error {
	if err := n.lock(ctx, "apply network"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	if n.synced && n.cfg.Equal(cfg) {
		return n.converge(ctx, n.cfg)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	return n.converge(ctx, cfg.Clone())
}

// converge makes the kernel agree with cfg. The lock is held.
func (n *Network) converge(ctx context.Context, cfg network.Config) error {
	gen, err := n.fw.generation()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read nftables generation: %w", err)
	}
	trusted := n.synced && gen == n.inForce.gen
	if trusted && n.cfg.Equal(cfg) && len(n.cleared) == 0 {
		return nil
	}
	if !trusted {
		if n.synced {
			n.log.DebugContext(ctx, "nftables was changed by another program, reading it again")
		}
		if n.inForce, err = n.fw.read(); err != nil {
			return err
		}
		n.doubtBridges()
	}
	n.noteCleared(cfg)
	n.synced, n.applied, n.cfg = false, true, cfg
	if len(cfg.Tenants) == 0 {
		err = n.applyNothing(ctx)
	} else if err = n.applyRules(ctx, wanted(cfg)); err == nil {
		n.clearAnswers()
		err = n.ns.do(func() error { return n.applyBridges(ctx, cfg) })
	}
	n.synced = err == nil
	return err
}

// applyRules makes the tables what they should be: element by element where the
// fixed part is right, else both tables anew.
func (n *Network) applyRules(ctx context.Context, want elements) error {
	have := n.inForce
	diff := differences(n.fw.shape, have.shape)
	if len(diff) == 0 && have.elements.equal(want) {
		return nil
	}
	var err error
	if len(diff) == 0 {
		err = n.fw.change(have.elements, want)
	} else {
		if have.present() {
			n.log.WarnContext(ctx, "nftables tables differ and are made anew", "table", n.fw.table, "differences", diff)
		}
		err = n.fw.rebuild(want, n.answersLeft())
	}
	return n.confirm(observed{shape: n.fw.shape, elements: want, gen: have.gen + 1}, err)
}

// confirm makes sure that a transaction is in force. The generation tells when it
// went through and nobody else changed anything; otherwise the tables are read.
func (n *Network) confirm(want observed, commit error) error {
	gen, err := n.fw.generation()
	if err == nil && commit == nil && gen == want.gen {
		n.inForce = want
		return nil
	}
	have, err := n.fw.read()
	if err != nil {
		return errors.Join(commit, err)
	}
	n.inForce = have
	if diff := differences(want.shape, have.shape); len(diff) > 0 || !have.elements.equal(want.elements) {
		if commit == nil {
			commit = mvm.Errorf(mvm.KindUnavailable, "change nftables tables %s: another program changed them at the same time: %v", n.fw.table, diff)
		}
		return commit
	}
	return nil
}

// doubtBridges has every bridge looked at again.
func (n *Network) doubtBridges() {
	for name := range n.bridges {
		n.bridges[name] = netip.Prefix{}
	}
	clear(n.isolated)
}

// applyBridges runs in the namespace. Bridges that are known to be right stay alone.
func (n *Network) applyBridges(ctx context.Context, cfg network.Config) error {
	keep := map[string]bool{}
	for _, t := range cfg.Tenants {
		keep[mvm.BridgeName(t.NetID)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(n.bridges)) {
		if !keep[name] {
			if err := n.removeLink(name); err != nil {
				return err
			}
			delete(n.bridges, name)
		}
	}
	if len(cfg.Tenants) > 0 {
		if err := n.forwardOn(ctx); err != nil {
			return err
		}
	}
	for _, t := range cfg.Tenants {
		if name := mvm.BridgeName(t.NetID); n.bridges[name] != t.Subnet {
			n.bridges[name] = netip.Prefix{}
			if err := n.ensureBridge(t); err != nil {
				return err
			}
			n.bridges[name] = t.Subnet
		}
	}
	n.isolatePorts(cfg)
	return nil
}

// isolatePorts makes the isolation of TAPs that are there what cfg says. It runs in the
// namespace; one that OpenTAP makes later begins with it. The rules of the bridge keep the
// instances apart without it too.
func (n *Network) isolatePorts(cfg network.Config) {
	known := make(map[string]bool, len(n.isolated))
	for _, t := range cfg.Tenants {
		for _, i := range t.Instances {
			tap := mvm.TAPName(t.NetID, i.Offset)
			known[tap] = i.Alone
			if was, ok := n.isolated[tap]; ok && was == i.Alone {
				continue
			}
			index, err := interfaceIndex(tap)
			if err == nil {
				err = setPortFlags(index, i.Alone)
			}
			if err != nil && !errors.Is(err, unix.ENODEV) { // no port of a bridge, which Verify tells
				n.log.Warn("set isolation of a port", "port", tap, "instance", i.ID, "error", err)
				delete(known, tap)
			}
		}
	}
	n.isolated = known
}

// applyNothing removes our bridges and then the tables. While an interface is left
// that the tables guard, they stay, without elements: nothing passes.
func (n *Network) applyNothing(ctx context.Context) error {
	if err := n.ns.do(func() error { return n.applyBridges(ctx, network.Config{}) }); err != nil {
		return err
	}
	left, err := n.ours()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return n.applyRules(ctx, newElements())
	}
	if !n.inForce.present() {
		return nil
	}
	err = n.fw.remove()
	return n.confirm(observed{elements: newElements(), gen: n.inForce.gen + 1}, err)
}

// ours returns the interfaces with mvm's names.
func (n *Network) ours() ([]netlink.Link, error) {
	all, err := dump(n.links.LinkList)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list interfaces: %w", err)
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool { return !isOurs(l.Attrs().Name) }), nil
}
