// Package publicnet says which addresses are public, so that what a tenant names can be
// fetched without giving it a way into the host's networks.
package publicnet

import "net/netip"

// reserved are networks of which netip has no word, and that are not public all the same.
var reserved = []string{
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fec0::/10",
}

// Has reports whether the address is public: none of loopback, link-local, private, multicast
// or otherwise reserved ones, nor one that stands for another address.
func Has(ip netip.Addr) bool {
	ip = ip.Unmap()
	public := ip.IsGlobalUnicast() && !ip.IsPrivate()
	for _, r := range reserved {
		public = public && !netip.MustParsePrefix(r).Contains(ip.WithZone(""))
	}
	return public
}
