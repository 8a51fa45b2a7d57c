package linuxnet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

// Occupied returns the host's addresses and routes that are not of tenants' bridges.
func (n *Network) Occupied(ctx context.Context) (out []network.Range, err error) {
	if err := n.lock(ctx, "look at the host's networks"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	host, err := n.hostRanges()
	for _, h := range host {
		out = append(out, h.Range)
	}
	return out, err
}

// hostRange is an address or a route of the host.
type hostRange struct {
	network.Range
	route bool
	short string // without the interface
}

// hostRanges lists the host's addresses and its routes to other machines, of all tables,
// but for tenants' bridges and for routes to everything.
func (n *Network) hostRanges() (out []hostRange, err error) {
	links, err := dump(n.links.LinkList)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.links.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list addresses: %w", err)
	}
	for _, a := range addrs {
		p, on := toNetip(a.IPNet), names[a.LinkIndex]
		if p.Bits() >= network.Everything && !isOurs(on) {
			out = append(out, hostRange{network.Range{Prefix: p.Masked(), What: fmt.Sprintf("the address %s of interface %s", p, on)}, false, p.String()})
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return n.links.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		p, on := toNetip(r.Dst), names[r.LinkIndex]
		if p.Bits() >= network.Everything && !isOurs(on) {
			out = append(out, hostRange{network.Range{Prefix: p.Masked(), What: "the route to " + p.String() + via(r, on)}, true, "a route to " + p.String()})
		}
	}
	return out, nil
}

// via says where a route leads.
func via(r netlink.Route, on string) (text string) {
	if r.Gw != nil {
		text = " via " + r.Gw.String()
	}
	if on != "" {
		text += " on interface " + on
	}
	return text
}

// verifyRoutes finds addresses and routes of the host that overlap tenants' subnets, such
// as came after the tenants. Both keep working as well as they can: nothing is taken down.
func (n *Network) verifyRoutes() ([]network.Finding, error) {
	host, err := n.hostRanges()
	if err != nil {
		return nil, err
	}
	var out []network.Finding
	for _, t := range n.cfg.Tenants {
		for _, h := range host {
			if !h.Prefix.Overlaps(t.Subnet) {
				continue
			}
			f := network.Finding{Severity: severe, Where: mvm.BridgeName(t.NetID), Fix: "give the tenant another subnet, or the host another network"}
			switch {
			case !h.route:
				f.What = fmt.Sprintf("the host's address %s lies in the subnet %s of tenant %s: it is %s", h.short, t.Subnet, t.ID, h.What)
			case h.Prefix.Bits() >= t.Subnet.Bits():
				f.What = fmt.Sprintf("%s takes traffic away from the subnet %s of tenant %s: it is %s", h.short, t.Subnet, t.ID, h.What)
				f.Fix = "ip route delete " + h.Prefix.String() + ", or give the tenant another subnet"
			default:
				f.Severity = minor
				f.What = fmt.Sprintf("the subnet %s of tenant %s takes traffic away from %s", t.Subnet, t.ID, h.What)
			}
			out = append(out, f)
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
