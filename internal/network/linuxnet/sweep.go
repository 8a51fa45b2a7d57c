package linuxnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"mvm"
	"mvm/internal/network"
)

// isOurs reports whether the name is one that only mvm gives to interfaces.
func isOurs(name string) bool {
	if id, ok := strings.CutPrefix(name, "br-tenant-"); ok {
		return isNumber(id)
	}
	if rest, ok := strings.CutPrefix(name, "tn"); ok {
		id, offset, ok := strings.Cut(rest, "i")
		return ok && isNumber(id) && isNumber(offset)
	}
	return false
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// Interfaces returns the bridges and TAPs with mvm's names in the process's network
// namespace, whoever's they are.
func Interfaces() (bridges, taps []string, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, mvm.Errorf(mvm.KindInternal, "list interfaces: %w", err)
	}
	for _, i := range all {
		switch {
		case !isOurs(i.Name):
		case strings.HasPrefix(i.Name, "tn"):
			taps = append(taps, i.Name)
		default:
			bridges = append(bridges, i.Name)
		}
	}
	return bridges, taps, nil
}

// owned are the interfaces that the Config owns: name to what it is.
func owned(cfg network.Config) map[string]string {
	out := map[string]string{}
	for _, t := range cfg.Tenants {
		out[mvm.BridgeName(t.NetID)] = "bridge"
		for _, i := range t.Instances {
			out[mvm.TAPName(t.NetID, i.Offset)] = "tuntap"
		}
	}
	return out
}

// Sweep removes interfaces with mvm's names that the Config applied last does not
// own, also those that a VMM still holds (it loses its network), neighbours of
// instances that are gone, and, when no tenant is left, the nftables tables. It goes
// on after an error and joins them.
func (n *Network) Sweep(ctx context.Context) ([]string, error) {
	if err := n.lock(ctx, "sweep network"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	if !n.applied {
		return nil, mvm.Errorf(mvm.KindState, "sweep network: no config was applied yet, so everything would be removed").
			WithFix("apply the host's config first")
	}
	links, err := n.ours()
	if err != nil {
		return nil, err
	}
	own := owned(n.cfg)
	var removed []string
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if own[name] == l.Type() {
			continue
		}
		if err := n.removeLink(name); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(n.bridges, name)
		removed = append(removed, name)
	}
	for _, l := range links {
		if own[l.Attrs().Name] == "bridge" {
			errs = append(errs, n.sweepNeighbours(l))
		}
	}
	tables, err := n.sweepTables(ctx)
	removed, errs = append(removed, tables...), append(errs, err)
	slices.Sort(removed)
	if len(removed) > 0 {
		n.log.InfoContext(ctx, "network swept", "removed", removed)
	}
	return removed, errors.Join(errs...)
}

// sweepTables removes the tables when nothing is left to guard, and else repairs them.
func (n *Network) sweepTables(ctx context.Context) ([]string, error) {
	n.synced = false
	had := n.inForce.present()
	if err := n.converge(ctx, n.cfg); err != nil {
		return nil, err
	}
	if had && !n.inForce.present() {
		return []string{"nftables tables " + n.fw.table}, nil
	}
	return nil, nil
}

// sweepNeighbours removes the host's fixed neighbours on a bridge that are no
// instances of its tenant.
func (n *Network) sweepNeighbours(bridge netlink.Link) error {
	keep := map[string]bool{}
	for _, t := range n.cfg.Tenants {
		if mvm.BridgeName(t.NetID) != bridge.Attrs().Name {
			continue
		}
		for _, i := range t.Instances {
			ip, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
			keep[ip.String()] = true
		}
	}
	have, err := dump(func() ([]netlink.Neigh, error) {
		return n.links.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	})
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "list neighbours of %s: %w", bridge.Attrs().Name, err)
	}
	var errs []error
	for _, h := range have {
		if h.State&netlink.NUD_PERMANENT != 0 && !keep[h.IP.String()] {
			if err := n.links.NeighDel(&h); err != nil {
				errs = append(errs, fmt.Errorf("remove neighbour %s of %s: %w", h.IP, bridge.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}
