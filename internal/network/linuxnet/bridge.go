package linuxnet

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/undo"
)

// bridgeMAC is the hardware address of a tenant's bridge; fixed, so that guests can
// rely on it whichever TAPs come and go.
func bridgeMAC(t network.Tenant) net.HardwareAddr { return mvm.MAC(t.NetID, mvm.GatewayOffset) }

// ensureBridge makes the tenant's bridge or repairs what differs. It runs in the
// namespace.
func (n *Network) ensureBridge(t network.Tenant) (err error) {
	name := mvm.BridgeName(t.NetID)
	link, err := n.links.LinkByName(name)
	var undone undo.Stack
	defer undone.Run(&err)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if link, err = n.addBridge(t); err != nil {
			return mvm.Errorf(mvm.KindInternal, "make bridge %s of tenant %s: %w", name, t.ID, err)
		}
		undone.Add(func() error { return n.links.LinkDel(link) })
		n.log.Info("bridge made", "tenant", t.ID, "bridge", name)
	} else if err != nil {
		return mvm.Errorf(mvm.KindInternal, "look up bridge %s of tenant %s: %w", name, t.ID, err)
	}
	if _, ok := link.(*netlink.Bridge); !ok {
		return mvm.Errorf(mvm.KindExists, "make bridge %s of tenant %s: an interface of that name exists and is a %s", name, t.ID, link.Type()).
			WithFix("remove it: ip link delete %s", name)
	}
	if err := n.repairBridge(t, link); err != nil {
		return mvm.Errorf(mvm.KindInternal, "set up bridge %s of tenant %s: %w", name, t.ID, err)
	}
	return nil
}

func (n *Network) addBridge(t network.Tenant) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = mvm.BridgeName(t.NetID)
	attrs.HardwareAddr = bridgeMAC(t)
	off := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := n.links.LinkAdd(br); err != nil {
		return nil, err
	}
	return n.links.LinkByName(attrs.Name)
}

func (n *Network) repairBridge(t network.Tenant, link netlink.Link) error {
	attrs := link.Attrs()
	if !bytes.Equal(attrs.HardwareAddr, bridgeMAC(t)) {
		if err := n.links.LinkSetHardwareAddr(link, bridgeMAC(t)); err != nil {
			return err
		}
	}
	if s := link.(*netlink.Bridge).MulticastSnooping; s != nil && *s {
		if err := snoopingOff(attrs.Index); err != nil {
			return err
		}
	}
	for _, s := range bridgeSysctls(attrs.Name) {
		if _, err := s.set(); err != nil {
			return err
		}
	}
	if err := n.setAddress(t, link); err != nil {
		return err
	}
	if attrs.Flags&net.FlagUp == 0 {
		return n.links.LinkSetUp(link)
	}
	return nil
}

// snoopingOff turns a bridge's multicast snooping off.
func snoopingOff(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0})
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// bridgeAddr is the tenant's gateway address with the subnet's length.
func bridgeAddr(t network.Tenant) netip.Prefix {
	return netip.PrefixFrom(t.Gateway(), t.Subnet.Bits())
}

// setAddress gives the bridge its address and takes away any other.
func (n *Network) setAddress(t network.Tenant, link netlink.Link) error {
	have, err := n.addresses(link)
	if err != nil {
		return err
	}
	found := false
	for _, a := range have {
		if toNetip(a.IPNet) == bridgeAddr(t) {
			found = true
		} else if err := n.links.AddrDel(link, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return err
		}
	}
	if found {
		return nil
	}
	return n.links.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{
		IP: t.Gateway().AsSlice(), Mask: net.CIDRMask(t.Subnet.Bits(), 32),
	}})
}

func (n *Network) addresses(link netlink.Link) ([]netlink.Addr, error) {
	return dump(func() ([]netlink.Addr, error) { return n.links.AddrList(link, netlink.FAMILY_ALL) })
}

func toNetip(n *net.IPNet) netip.Prefix {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// dump reads a list, again when it changed while it was read.
func dump[T any](read func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range 20 {
		if out, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

// removeLink removes an interface; one that is gone already is fine.
func (n *Network) removeLink(name string) error {
	link, err := n.links.LinkByName(name)
	if err == nil {
		err = n.links.LinkDel(link)
	}
	if err == nil || errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return mvm.Errorf(mvm.KindInternal, "remove interface %s: %w", name, err)
}

// forwardOn lets the host forward packets, which guests need to get out.
func (n *Network) forwardOn(ctx context.Context) error {
	changed, err := sysctl{"net/ipv4/ip_forward", "1"}.set()
	if changed && err == nil {
		n.log.WarnContext(ctx, "net.ipv4.ip_forward turned on so that guests reach the outside; the host now forwards other networks' packets too, unless its firewall forbids it")
	}
	return err
}
