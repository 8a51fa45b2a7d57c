package mvm

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// MaxNetID is the highest tenant net_id.
const MaxNetID = 4095

// ClusterCIDR holds every tenant's default subnet (formats.md section 1).
var ClusterCIDR = netip.MustParsePrefix("10.240.0.0/12")

// DefaultSubnet returns the /24 of a net_id: 10.(240 + id/256).(id%256).0/24.
func DefaultSubnet(netID int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(240 + netID/256), byte(netID % 256), 0}), 24)
}

// ValidateSubnet checks a tenant's subnet: IPv4, masked, private (RFC 1918) and from /16 to /28.
func ValidateSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return Errorf(KindInvalid, "subnet %s is not an IPv4 prefix", p)
	case p.Masked() != p:
		return Errorf(KindInvalid, "subnet %s has host bits set", p).WithFix("use %s", p.Masked())
	case p.Bits() < 16 || p.Bits() > 28:
		return Errorf(KindInvalid, "subnet %s is not a /16 to /28", p)
	case !p.Addr().IsPrivate():
		return Errorf(KindInvalid, "subnet %s is not a private range", p).WithFix("use one within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
	}
	return nil
}

// The offsets of the addresses in a tenant's subnet.
const (
	GatewayOffset       = 1 // the bridge on the host
	BuilderOffset       = 2
	FirstInstanceOffset = 3
)

// SubnetAddr returns the address at the offset in the subnet, and false where the
// subnet has no such usable address (the last one is the broadcast address).
func SubnetAddr(p netip.Prefix, offset int) (netip.Addr, bool) {
	size := 1 << (32 - p.Bits())
	if offset < 1 || offset >= size-1 {
		return netip.Addr{}, false
	}
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(offset))
	return netip.AddrFrom4(b), true
}

// BridgeName is the name of a tenant's bridge on the host.
func BridgeName(netID int) string { return fmt.Sprintf("br-tenant-%d", netID) }

// TAPName is the name of an instance's TAP on the host.
func TAPName(netID, offset int) string { return fmt.Sprintf("tn%di%d", netID, offset) }

// MAC is the hardware address of an instance: locally administered, unique per host.
func MAC(netID, offset int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xfc, byte(netID >> 8), byte(netID), byte(offset >> 8), byte(offset)}
}
