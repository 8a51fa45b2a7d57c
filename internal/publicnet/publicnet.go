// Package publicnet says which addresses are public, so that what a tenant names can be
// fetched without giving it a way into the host's networks.
package publicnet

import "net/netip"

// reserved are networks of which netip has no word, and that are not public all the same.
var reserved = []string{
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
}

// global has all public addresses of IPv6. What is outside stands for other addresses, such as
// ::a.b.c.d and 64:ff9b::/96, or is for use inside of a network.
var global = netip.MustParsePrefix("2000::/3")

// Has reports whether the address is public: none of loopback, link-local, private, multicast
// or otherwise reserved ones, nor one that stands for another address.
func Has(ip netip.Addr) bool {
	ip = ip.Unmap()
	public := ip.IsGlobalUnicast() && !ip.IsPrivate() && (ip.Is4() || global.Contains(ip.WithZone("")))
	for _, r := range reserved {
		public = public && !netip.MustParsePrefix(r).Contains(ip.WithZone(""))
	}
	return public
}
