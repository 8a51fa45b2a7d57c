package linux

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netlinkTimeout bounds a question to the kernel.
const netlinkTimeout = 5 * time.Second

// route is a netlink socket for links, addresses and routes; IPv4 only.
type route struct{ *netlink.Handle }

func openRoute() (route, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return route{}, err
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return route{}, err
	}
	return route{h}, nil
}

// linkOf is the link of the number.
func linkOf(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// addresses lists a link's IPv4 addresses.
func (r route) addresses(index int) ([]netip.Prefix, error) {
	all, err := r.AddrList(linkOf(index), netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	out := make([]netip.Prefix, 0, len(all))
	for _, a := range all {
		bits, _ := a.Mask.Size()
		if addr, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			out = append(out, netip.PrefixFrom(addr, bits))
		}
	}
	return out, nil
}

func addressOf(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)},
		Broadcast: net.IPv4zero} // none
}

func (r route) addAddress(index int, p netip.Prefix) error {
	return r.AddrReplace(linkOf(index), addressOf(p))
}

func (r route) deleteAddress(index int, p netip.Prefix) error {
	return r.AddrDel(linkOf(index), addressOf(p))
}

// setDefault makes the gateway, over the link, the one default route.
func (r route) setDefault(index int, gateway netip.Addr) error {
	return r.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()})
}

// refreshNeighbour drops what the link knows of an address's MAC, which may be
// another after a sleep, and has the kernel ask for it at once. The question is a
// broadcast, so the bridge and the neighbours learn where this machine is.
func (r route) refreshNeighbour(index int, addr netip.Addr) error {
	n := netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, IP: addr.AsSlice()}
	if err := r.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	n.Flags = netlink.NTF_USE
	return r.NeighSet(&n)
}
