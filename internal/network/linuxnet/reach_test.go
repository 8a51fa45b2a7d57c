package linuxnet_test

import (
	"net"
	"net/netip"
	"slices"
)

// hostAttacks are honest frames to what a guest must not reach on the host.
func hostAttacks() []attack {
	udpTo := func(ip netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return routed(udp(ipA3, ip, 1, portUDP, m)) }
	}
	syn := func(ip netip.Addr, dport int) func([]byte, int) [][]byte {
		return func(_ []byte, port int) [][]byte { return routed(tcp(ipA3, ip, port, dport, flagSYN, nil)) }
	}
	flags := func(ip netip.Addr, dport int, f byte) func([]byte, int) [][]byte {
		return func(m []byte, port int) [][]byte { return routed(tcp(ipA3, ip, port, dport, f, m)) }
	}
	echo := func(ip netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return routed(ping(ipA3, ip, m)) }
	}
	lo := addr("127.0.0.1")
	return []attack{
		{name: "UDP to the gateway address", send: udpTo(gwA)},
		{name: "UDP to another tenant's gateway address", send: udpTo(gwZ)},
		{name: "UDP to the host's address", send: udpTo(ipHost)},
		{name: "UDP to 127.0.0.1", send: udpTo(lo)},
		{name: "TCP to a port that is not the tenant's", send: syn(gwA, portTCP)},
		{name: "TCP to another tenant's port on the own gateway", send: syn(gwA, portZeta)},
		{name: "TCP to another tenant's gateway", send: syn(gwZ, portZeta)},
		{name: "TCP to the own port on another tenant's gateway", send: syn(gwZ, portAcme)},
		{name: "TCP to the own port on the host's address", send: syn(ipHost, portAcme)},
		{name: "TCP to 127.0.0.1", send: syn(lo, portAcme)},
		{name: "TCP answer to nothing", send: flags(gwA, portTCP, flagSYN|flagACK)},
		{name: "TCP answer to nothing at the tenant's port", send: flags(gwA, portAcme, flagSYN|flagACK)},
		{name: "TCP answer to nothing to the outside", send: flags(ipOut, 22, flagSYN|flagACK)},
		{name: "TCP data to nothing", send: flags(gwA, portTCP, flagACK)},
		{name: "TCP data to nothing on the host's address", send: flags(ipHost, portTCP, flagACK)},
		{name: "ping the gateway", send: echo(gwA)},
		{name: "ping another tenant's gateway", send: echo(gwZ)},
		{name: "ping the host's address", send: echo(ipHost)},
		{name: "fragments to the host", send: func(m []byte, _ int) [][]byte { return fragments(udp(ipA3, gwA, 1, portUDP, m)) }},
		{name: "fragments to the host's address", send: func(m []byte, _ int) [][]byte { return fragments(udp(ipA3, ipHost, 1, portUDP, m)) }},
		{name: "TTL of 1 to another tenant", send: func(m []byte, _ int) [][]byte {
			p := udp(ipA3, ipZ3, 1, portUDP, m)
			p.ttl = 1
			return routed(p)
		}},
	}
}

// tenantAttacks are honest frames to another tenant's guests and to ranges that are
// closed.
func tenantAttacks() []attack {
	to := func(dst net.HardwareAddr, src, ip netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte {
			return one(ether(dst, macA3, typeIPv4, udp(src, ip, 1, portUDP, m).bytes()))
		}
	}
	option := func(typ byte, via, ip netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte {
			p := udp(ipA3, via, 1, portUDP, m)
			p.options = slices.Concat([]byte{typ, 7, 4}, ip.AsSlice(), []byte{0})
			return routed(p)
		}
	}
	return []attack{
		{name: "through the gateway", send: to(macGwA, ipA3, ipZ3)},
		{name: "through the gateway with the tenant's IP", send: to(macGwA, addr("10.240.4.9"), ipZ3)},
		{name: "through the gateway with the tenant's gateway's IP", send: to(macGwA, gwZ, ipZ3)},
		{name: "straight to the MAC", send: to(macZ3, ipA3, ipZ3), kernel: true},
		{name: "to a neighbour's MAC", send: to(macA4, ipA3, ipZ3)},
		{name: "broadcast frame", send: to(broadcast, ipA3, ipZ3)},
		{name: "ping", send: func(m []byte, _ int) [][]byte { return routed(ping(ipA3, ipZ3, m)) }},
		{name: "TCP", send: func(_ []byte, port int) [][]byte { return routed(tcp(ipA3, ipZ3, port, 22, flagSYN, nil)) }},
		{name: "TCP answer to nothing", send: func(_ []byte, port int) [][]byte {
			return routed(tcp(ipA3, ipZ3, port, 22, flagSYN|flagACK, nil))
		}},
		{name: "source route, loose", send: option(131, gwA, ipZ3)},
		{name: "source route, strict", send: option(137, gwA, ipZ3)},
		{name: "source route through the outside", send: option(131, ipOut, ipZ3)},
		{name: "fragments", send: func(m []byte, _ int) [][]byte { return fragments(udp(ipA3, ipZ3, 1, portUDP, m)) }},
		{name: "another host's tenant", send: to(macGwA, ipA3, addr("10.250.7.3"))},
		{name: "cloud metadata", send: to(macGwA, ipA3, addr("169.254.169.254"))},
	}
}

// fragments is the packet in two fragments.
func fragments(p packet) [][]byte {
	a, b := p, p
	a.id, b.id = 77, 77
	a.payload, a.frag = p.payload[:8], 0x2000
	b.payload, b.frag = p.payload[8:], 1
	return slices.Concat(routed(a), routed(b))
}

// outsideAttacks come in over the host's uplink.
func outsideAttacks() []attack {
	in := func(p packet) [][]byte { return one(ether(macHost, macOut, typeIPv4, p.bytes())) }
	udpAs := func(src, dst netip.Addr, port int) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return in(udp(src, dst, 1, port, m)) }
	}
	return []attack{
		{name: "UDP to a guest", from: "outside", send: udpAs(ipOut, ipA3, portUDP)},
		{name: "UDP to a guest as its neighbour", from: "outside", send: udpAs(ipA4, ipA3, portUDP)},
		{name: "UDP to a guest as its gateway", from: "outside", send: udpAs(gwA, ipA3, portUDP)},
		{name: "UDP to a tenant's gateway address", from: "outside", send: udpAs(ipOut, gwA, portUDP)},
		{name: "TCP to a guest", from: "outside", send: func(_ []byte, port int) [][]byte {
			return in(tcp(ipOut, ipA3, port, 22, flagSYN, nil))
		}},
		{name: "TCP answer to nothing of a guest", from: "outside", send: func(_ []byte, port int) [][]byte {
			return in(tcp(ipOut, ipA3, port, 22, flagSYN|flagACK, nil))
		}},
		{name: "TCP to a tenant's port", from: "outside", send: func(_ []byte, port int) [][]byte {
			return in(tcp(ipOut, gwA, port, portAcme, flagSYN, nil))
		}},
	}
}
