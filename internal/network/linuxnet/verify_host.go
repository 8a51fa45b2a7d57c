package linuxnet

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"mvm"
	"mvm/internal/network"
)

// verifyHost looks at the host's own settings, addresses and routes.
func (n *Network) verifyHost() ([]network.Finding, error) {
	if len(n.cfg.Tenants) == 0 {
		return nil, nil
	}
	out, err := verifySettings([]sysctl{{"net/ipv4/ip_forward", "1"}}, "", minor)
	if err != nil {
		return nil, err
	}
	careless, err := verifySettings([]sysctl{{"net/ipv4/conf/all/proxy_arp", "0"}, {"net/ipv4/conf/all/route_localnet", "0"}}, "", minor)
	if err != nil {
		return nil, err
	}
	routes, err := n.verifyRoutes()
	return append(append(out, careless...), routes...), err
}

// verifyRoutes finds addresses and routes of the host within tenants' subnets.
func (n *Network) verifyRoutes() ([]network.Finding, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.links.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list addresses: %w", err)
	}
	routes, err := dump(func() ([]netlink.Route, error) { return n.links.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list routes: %w", err)
	}
	var out []network.Finding
	for _, t := range n.cfg.Tenants {
		bridge, err := interfaceIndex(mvm.BridgeName(t.NetID))
		if err != nil {
			continue // verifyBridge tells
		}
		for _, a := range addrs {
			if p := toNetip(a.IPNet); a.LinkIndex != bridge && p.Bits() > 0 && t.Subnet.Overlaps(p) {
				out = append(out, network.Finding{Severity: severe, What: fmt.Sprintf("the host's address %s lies in the subnet %s of tenant %s", p, t.Subnet, t.ID), Where: mvm.BridgeName(t.NetID),
					Fix: "give the tenant another subnet, or the host another address"})
			}
		}
		for _, r := range routes {
			if r.Dst == nil || r.LinkIndex == bridge {
				continue
			}
			if p := toNetip(r.Dst); p.Bits() >= t.Subnet.Bits() && t.Subnet.Overlaps(p) {
				out = append(out, network.Finding{Severity: severe, What: fmt.Sprintf("a route to %s takes traffic away from the subnet %s of tenant %s", p, t.Subnet, t.ID), Where: mvm.BridgeName(t.NetID),
					Fix: "ip route delete " + p.String()})
			}
		}
	}
	return out, nil
}

// verifyOthers finds other programs' rules that drop what mvm allows. It cannot
// follow them, so it only warns, and not where they mention mvm's bridges.
func (n *Network) verifyOthers() ([]network.Finding, error) {
	if len(n.cfg.Tenants) == 0 {
		return nil, nil
	}
	c, err := n.fw.conn()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list nftables chains: %w", err)
	}
	var out []network.Finding
	for _, ch := range chains {
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || ch.Hooknum == nil || ch.Table.Name == n.fw.table {
			continue
		}
		family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[ch.Table.Family]
		hook := map[nftables.ChainHook]string{*nftables.ChainHookForward: "forward", *nftables.ChainHookInput: "input"}[*ch.Hooknum]
		if family == "" || hook == "" || mentionsBridges(c, chains, ch.Table) {
			continue
		}
		out = append(out, network.Finding{Severity: minor, What: otherDrops(hook),
			Where: fmt.Sprintf("nftables chain %s %s %s", family, ch.Table.Name, ch.Name), Fix: otherFix(family, hook, ch)})
	}
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && strings.Contains(string(b), "filter") {
		out = append(out, network.Finding{Severity: minor, What: "the old iptables has a filter table, which mvm cannot read and which may drop guests' traffic", Where: "iptables-legacy",
			Fix: "look with iptables-legacy -S FORWARD, and allow -i br-tenant-+ and -o br-tenant-+ there"})
	}
	return out, nil
}

func otherDrops(hook string) string {
	if hook == "input" {
		return "another program's rules drop what they do not know: guests may not reach the host ports of their tenant"
	}
	return "another program's rules drop what they do not know: guests may not reach the outside"
}

func otherFix(family, hook string, ch *nftables.Chain) string {
	chain := fmt.Sprintf("%s %s %s", family, ch.Table.Name, ch.Name)
	fix := fmt.Sprintf(`nft insert rule %s iifname '"br-tenant-*"' accept`, chain)
	if hook == "forward" {
		fix += fmt.Sprintf(`; nft insert rule %s oifname '"br-tenant-*"' ct state established,related accept`, chain)
	}
	return fix + " (mvm's own rules still apply)"
}

// mentionsBridges reports whether a rule of the table names tenants' bridges.
func mentionsBridges(c *nftables.Conn, chains []*nftables.Chain, t *nftables.Table) bool {
	for _, ch := range chains {
		if ch.Table.Name != t.Name || ch.Table.Family != t.Family {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			continue // a rule that the library does not know: no mention
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Cmp); ok && bytes.HasPrefix(c.Data, []byte("br-tenant-")) {
					return true
				}
			}
		}
	}
	return false
}
