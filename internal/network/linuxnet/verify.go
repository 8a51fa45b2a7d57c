package linuxnet

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"mvm"
	"mvm/internal/network"
)

const (
	severe = "error"   // isolation is not what was asked for
	minor  = "warning" // something may not work, or is unusual
)

const fixRestart = "restart the agent, which repairs it"

// Verify compares nftables, bridges, TAPs and settings with the Config applied last,
// and looks at what others have set that gets in the way. It changes nothing.
func (n *Network) Verify(ctx context.Context) ([]network.Finding, error) {
	if err := n.lock(ctx, "verify network"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	var out []network.Finding
	for _, check := range []func() ([]network.Finding, error){n.verifyRules, n.verifyLinks, n.verifyHost, n.verifyOthers, n.refusals, n.dropped} {
		var found []network.Finding
		err := n.ns.do(func() (err error) {
			found, err = check()
			return err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// verifyRules compares mvm's own tables.
func (n *Network) verifyRules() ([]network.Finding, error) {
	have, err := n.fw.read()
	if err != nil {
		return nil, err
	}
	where := "nftables tables " + n.fw.table
	if len(n.cfg.Tenants) == 0 {
		if !have.present() {
			return nil, nil
		}
		left, err := n.ours()
		if err != nil || len(left) > 0 {
			return nil, err // they guard what is left, which verifyLinks tells
		}
		return []network.Finding{{Severity: minor, What: "rules are there although no tenant is", Where: where, Fix: fixRestart}}, nil
	}
	var out []network.Finding
	for _, d := range differences(n.fw.shape, have.shape) {
		out = append(out, network.Finding{Severity: severe, What: d, Where: where, Fix: fixRestart})
	}
	want := wanted(n.cfg)
	for _, set := range keptSets {
		if k := want.missing(have.elements, set); len(k) > 0 {
			out = append(out, network.Finding{Severity: severe, What: fmt.Sprintf("set %s lacks %d elements", set, len(k)), Where: where, Fix: fixRestart})
		}
		if k := have.elements.missing(want, set); len(k) > 0 {
			out = append(out, network.Finding{Severity: severe, What: fmt.Sprintf("set %s has %d elements that belong to no tenant", set, len(k)), Where: where, Fix: fixRestart})
		}
	}
	return out, nil
}

// verifyLinks compares bridges and TAPs.
func (n *Network) verifyLinks() ([]network.Finding, error) {
	all, err := dump(n.links.LinkList)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list interfaces: %w", err)
	}
	byName, byIndex := map[string]netlink.Link{}, map[int]netlink.Link{}
	for _, l := range all {
		byName[l.Attrs().Name], byIndex[l.Attrs().Index] = l, l
	}
	var out []network.Finding
	for _, t := range n.cfg.Tenants {
		found, err := n.verifyBridge(t, byName[mvm.BridgeName(t.NetID)])
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		for _, i := range t.Instances {
			if tap := byName[mvm.TAPName(t.NetID, i.Offset)]; tap != nil {
				out = append(out, n.verifyTAP(t, i, tap, byIndex)...)
			}
		}
	}
	own := owned(n.cfg)
	for _, l := range all {
		name := l.Attrs().Name
		if isOurs(name) && own[name] == "" {
			out = append(out, network.Finding{Severity: severe, What: "interface belongs to no tenant", Where: name, Fix: "restart the agent, which removes it, or: ip link delete " + name})
		}
		master := byIndex[l.Attrs().MasterIndex]
		if master != nil && own[master.Attrs().Name] == "bridge" && !isOurs(name) {
			out = append(out, network.Finding{Severity: severe, What: "foreign interface is a port of tenant bridge " + master.Attrs().Name, Where: name, Fix: "ip link set " + name + " nomaster"})
		}
	}
	return out, nil
}

func (n *Network) verifyBridge(t network.Tenant, link netlink.Link) ([]network.Finding, error) {
	name := mvm.BridgeName(t.NetID)
	br, ok := link.(*netlink.Bridge)
	if !ok {
		return []network.Finding{{Severity: severe, What: "bridge of tenant " + t.ID + " is missing", Where: name, Fix: fixRestart}}, nil
	}
	var out []network.Finding
	add := func(severity, what string) {
		out = append(out, network.Finding{Severity: severity, What: what, Where: name, Fix: fixRestart})
	}
	if br.Flags&net.FlagUp == 0 {
		add(minor, "bridge is down")
	}
	if !bytes.Equal(br.HardwareAddr, bridgeMAC(t)) {
		add(minor, "bridge has another MAC than "+bridgeMAC(t).String())
	}
	if br.MulticastSnooping != nil && *br.MulticastSnooping {
		add(minor, "bridge has multicast snooping on")
	}
	addrs, err := n.addresses(br)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list addresses of %s: %w", name, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return toNetip(a.IPNet) == bridgeAddr(t) }) {
		add(severe, "bridge lacks its address "+bridgeAddr(t).String())
	}
	for _, a := range addrs {
		if toNetip(a.IPNet) != bridgeAddr(t) {
			add(severe, "bridge has a further address, "+a.IPNet.String())
		}
	}
	settings, err := verifySettings(bridgeSysctls(name), name, severe)
	return append(out, settings...), err
}

func (n *Network) verifyTAP(t network.Tenant, i network.Instance, tap netlink.Link, byIndex map[int]netlink.Link) []network.Finding {
	a := tap.Attrs()
	stop := "stop its instance and start it again"
	var out []network.Finding
	if master := byIndex[a.MasterIndex]; master == nil || master.Attrs().Name != mvm.BridgeName(t.NetID) {
		out = append(out, network.Finding{Severity: severe, What: "TAP is no port of its tenant's bridge", Where: a.Name, Fix: stop})
	} else if p, err := n.links.LinkGetProtinfo(tap); err == nil && (p.Learning || p.Flood) {
		out = append(out, network.Finding{Severity: minor, What: "TAP's bridge port learns addresses or floods", Where: a.Name, Fix: stop})
	}
	if p, err := n.links.LinkGetProtinfo(tap); err == nil && p.Isolated != i.Alone {
		out = append(out, network.Finding{Severity: severe, What: fmt.Sprintf("TAP's bridge port is isolated: %t, and should be: %t", p.Isolated, i.Alone), Where: a.Name, Fix: fixRestart})
	}
	if tap.Type() != "tuntap" {
		out = append(out, network.Finding{Severity: severe, What: "interface with a TAP's name is a " + tap.Type(), Where: a.Name, Fix: "ip link delete " + a.Name})
	}
	settings, err := verifySettings(noIPv6(a.Name)[:1], a.Name, severe)
	if err != nil {
		return out
	}
	return append(out, settings...)
}

func verifySettings(settings []sysctl, where, severity string) ([]network.Finding, error) {
	var out []network.Finding
	for _, s := range settings {
		got, differs, err := s.differs()
		if err != nil {
			return nil, err
		}
		if differs {
			out = append(out, network.Finding{Severity: severity, What: fmt.Sprintf("setting is %s instead of %s", got, s.value), Where: s.name(), Fix: fmt.Sprintf("sysctl -w %s=%s", s.name(), s.value)})
		}
	}
	return out, nil
}
