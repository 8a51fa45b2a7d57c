package resolver

import (
	"net/netip"

	"mvm/internal/egress"
)

// closed6 are the IPv6 ranges that no name may lead to: private, link-local, loopback,
// multicast, and those that stand for an IPv4 address at a place that is not known.
var closed6 = []netip.Prefix{
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001:db8::/32"),
}

// embeds are the ranges of IPv6 addresses that have an IPv4 address in them, and where: NAT64,
// compatible and translated ones, 6to4, and the server of Teredo.
var embeds = []struct {
	in netip.Prefix
	at int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("::/96"), 12}, {netip.MustParsePrefix("::ffff:0:0:0/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2}, {netip.MustParsePrefix("2001::/32"), 4},
}

// mayLead reports whether a name may lead guests with the list to the address.
func mayLead(list []egress.Destination, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return egress.AllowsAddress(list, a)
	}
	for _, p := range closed6 {
		if p.Contains(a) {
			return false
		}
	}
	for _, v4 := range embedded(a) {
		if !egress.AllowsAddress(list, v4) {
			return false
		}
	}
	return true
}

func embedded(a netip.Addr) (out []netip.Addr) {
	b := a.As16()
	for _, e := range embeds {
		if e.in.Contains(a) {
			out = append(out, netip.AddrFrom4([4]byte(b[e.at:])))
		}
	}
	if b[0] == 0x20 && b[1] == 1 && b[2] == 0 && b[3] == 0 { // Teredo: the client, with every bit turned
		out = append(out, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP
		out = append(out, netip.AddrFrom4([4]byte(b[12:])))
	}
	return out
}
