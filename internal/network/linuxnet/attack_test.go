package linuxnet_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// attack is something that a hostile guest, or the outside, may try. It must arrive
// nowhere and get no answer.
type attack struct {
	name string
	from string // a3 unless set
	send func(m []byte, port int) [][]byte
	// answer, where set, is an ARP answer that must not come.
	answer string
	// kernel: the kernel lets it go nowhere even on a host without rules and settings.
	kernel bool
	// brNF: br_netfilter drops it by itself when it is on.
	brNF bool
}

func one(frame []byte) [][]byte { return [][]byte{frame} }

// l2 is a frame of a3 to dst.
func l2(dst net.HardwareAddr, typ int, payload []byte) [][]byte {
	return one(ether(dst, macA3, typ, payload))
}

// routed is an honest frame of a3 to the host that carries the packet.
func routed(p packet) [][]byte { return l2(macGwA, typeIPv4, p.bytes()) }

func identityAttacks() []attack {
	udpA4 := func(src netip.Addr, m []byte) []byte { return udp(src, ipA4, 1, portUDP, m).bytes() }
	from := func(src net.HardwareAddr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return one(ether(macA4, src, typeIPv4, udpA4(ipA3, m))) }
	}
	as := func(src netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return l2(macA4, typeIPv4, udpA4(src, m)) }
	}
	toOutsideAs := func(src netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return routed(udp(src, ipOut, 1, 1, m)) }
	}
	return []attack{
		{name: "MAC of a neighbour", send: from(macA4)},
		{name: "MAC of the bridge", send: from(macGwA)},
		{name: "MAC of another tenant's guest", send: from(macZ3)},
		{name: "MAC made up", send: from(mac("02:00:00:00:00:99"))},
		{name: "MAC that is multicast", send: from(mac("03:00:00:00:00:01")), kernel: true},
		{name: "IP of a neighbour", send: as(ipA5)},
		{name: "IP of the gateway", send: as(gwA)},
		{name: "IP of another tenant's guest", send: as(ipZ3)},
		{name: "IP of the host", send: as(ipHost)},
		{name: "IP of the outside", send: as(ipOut)},
		{name: "IP 127.0.0.1", send: as(addr("127.0.0.1"))},
		{name: "IP 0.0.0.0", send: as(addr("0.0.0.0"))},
		{name: "IP of a neighbour to the outside", send: toOutsideAs(ipA5)},
		{name: "IP of another tenant's guest to the outside", send: toOutsideAs(ipZ3)},
		{name: "IP of nobody to the outside", send: toOutsideAs(addr("198.51.100.7"))},
		{name: "IP of a neighbour to the host", send: func(m []byte, _ int) [][]byte { return routed(udp(ipA5, gwA, 1, portUDP, m)) }},
		{name: "IP of nobody to the host", send: func(m []byte, _ int) [][]byte { return routed(udp(addr("198.51.100.7"), gwA, 1, portUDP, m)) }},
		{name: "answer faked as the outside's", send: func(m []byte, _ int) [][]byte { return routed(udp(ipOut, ipHost, 6666, portUDP, m)) }},
		{name: "DHCP discover", send: func(m []byte, _ int) [][]byte {
			return l2(broadcast, typeIPv4, udp(addr("0.0.0.0"), addr("255.255.255.255"), 68, 67, m).bytes())
		}},
		{name: "DHCP offer", send: func(m []byte, _ int) [][]byte {
			return l2(broadcast, typeIPv4, udp(ipA3, addr("255.255.255.255"), 67, 68, m).bytes())
		}},
	}
}

func arpAttacks() []attack {
	claim := func(op int, dst, sha net.HardwareAddr, spa netip.Addr) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return l2(dst, typeARP, arp(op, sha, spa, macA4, ipA4, m)) }
	}
	ask := func(ip netip.Addr) func([]byte, int) [][]byte {
		return func([]byte, int) [][]byte {
			return l2(broadcast, typeARP, arp(1, macA3, ipA3, make([]byte, 6), ip, make([]byte, 18)))
		}
	}
	return []attack{
		{name: "ARP reply for the gateway", send: claim(2, macA4, macA3, gwA)},
		{name: "ARP reply for a neighbour", send: claim(2, macA4, macA3, ipA5)},
		{name: "ARP request as the gateway", send: claim(1, broadcast, macA3, gwA)},
		{name: "ARP gratuitous for the gateway", send: func(m []byte, _ int) [][]byte {
			return l2(broadcast, typeARP, arp(1, macA3, gwA, make([]byte, 6), gwA, m))
		}},
		{name: "ARP probe from 0.0.0.0", send: claim(1, broadcast, macA3, addr("0.0.0.0"))},
		{name: "ARP with another sender MAC inside", send: claim(2, macA4, macGwA, ipA3)},
		{name: "ARP in a frame of another MAC", send: func(m []byte, _ int) [][]byte {
			return one(ether(macA4, macZ3, typeARP, arp(2, macA3, ipA3, macA4, ipA4, m)))
		}},
		{name: "ARP to multicast", send: claim(1, mac("01:00:5e:00:00:01"), macA3, ipA3)},
		{name: "ARP inverse", send: claim(8, macA4, macA3, ipA3)},
		{name: "ARP reverse in ARP", send: claim(3, macA4, macA3, ipA3)},
		{name: "RARP", send: func(m []byte, _ int) [][]byte { return l2(macA4, 0x8035, arp(3, macA3, ipA3, macA4, ipA4, m)) }},
		{name: "ARP of other hardware", send: func(m []byte, _ int) [][]byte {
			b := arp(2, macA3, ipA3, macA4, ipA4, m)
			b[1] = 6
			return l2(macA4, typeARP, b)
		}},
		{name: "ARP of other lengths", send: func(m []byte, _ int) [][]byte {
			b := arp(2, macA3, ipA3, macA4, ipA4, m)
			b[4], b[5] = 8, 16
			return l2(macA4, typeARP, b)
		}},
		{name: "ARP for another tenant's gateway", send: ask(gwZ), answer: "10.240.4.1"},
		{name: "ARP for another tenant's guest", send: ask(ipZ3), answer: "10.240.4.3"},
		{name: "ARP for the host's address", send: ask(ipHost), answer: "192.0.2.1"},
		{name: "ARP for 127.0.0.1", send: ask(addr("127.0.0.1")), answer: "127.0.0.1"},
		{name: "ARP for the outside", send: ask(ipOut), answer: "192.0.2.2"},
	}
}

func protocolAttacks() []attack {
	ll := addr("fe80::fc:ff:fe03:3")
	nodes := addr("ff02::1")
	v6 := func(dst net.HardwareAddr, b func(m []byte) []byte) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return l2(dst, typeIPv6, b(m)) }
	}
	typed := func(dst net.HardwareAddr, typ int, head ...byte) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return l2(dst, typ, slices.Concat(head, m, make([]byte, 40))) }
	}
	tagged := func(typ, vid int, rest ...byte) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte {
			return l2(macA4, typ, slices.Concat(u16(vid), rest, u16(typeIPv4), udp(ipA3, ipA4, 1, portUDP, m).bytes()))
		}
	}
	return []attack{
		{name: "IPv6 router advertisement", send: v6(mac("33:33:00:00:00:01"), func(m []byte) []byte {
			return icmp6(ll, nodes, 134, slices.Concat([]byte{64, 0, 7, 8}, make([]byte, 8), []byte{1, 1}, macA3, m))
		})},
		{name: "IPv6 neighbour solicitation", send: v6(mac("33:33:00:00:00:01"), func(m []byte) []byte {
			return icmp6(ll, nodes, 135, slices.Concat(make([]byte, 4), ll.AsSlice(), m))
		})},
		{name: "IPv6 neighbour advertisement", send: v6(macA4, func(m []byte) []byte {
			return icmp6(ll, addr("fe80::1"), 136, slices.Concat([]byte{0xa0, 0, 0, 0}, ll.AsSlice(), m))
		})},
		{name: "IPv6 to a neighbour", send: v6(macA4, func(m []byte) []byte { return ipv6(ll, addr("fe80::fc:ff:fe03:4"), protoUDP, m) })},
		{name: "IPv6 DHCP", send: v6(mac("33:33:00:01:00:02"), func(m []byte) []byte { return ipv6(ll, addr("ff02::1:2"), protoUDP, m) })},
		{name: "VLAN tag", send: tagged(0x8100, 7)},
		{name: "VLAN priority tag", send: tagged(0x8100, 0x2000)},
		{name: "VLAN service tag", send: tagged(0x88a8, 7)},
		{name: "VLAN two tags", send: tagged(0x8100, 7, 0x81, 0, 0, 8)},
		{name: "LLDP", send: typed(mac("01:80:c2:00:00:0e"), 0x88cc), kernel: true},
		{name: "LLDP to broadcast", send: typed(broadcast, 0x88cc)},
		{name: "spanning tree", send: typed(mac("01:80:c2:00:00:00"), 38, 0x42, 0x42, 3)},
		{name: "EAPOL", send: typed(mac("01:80:c2:00:00:03"), 0x888e), kernel: true},
		{name: "PPPoE", send: typed(macA4, 0x8864, 0x11, 0, 0, 1, 0, 60, 0, 0x21)},
		{name: "MPLS", send: typed(macA4, 0x8847)},
		{name: "802.3 with SNAP", send: typed(macA4, 60, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0)},
		{name: "ATA over Ethernet", send: typed(broadcast, 0x88a2)},
		{name: "unknown type", send: typed(macA4, 0x88b5)},
		{name: "IPv4 type with another version inside", send: func(m []byte, _ int) [][]byte {
			b := udp(ipA3, ipA4, 1, portUDP, m).bytes()
			b[0] = 0x65
			return l2(macA4, typeIPv4, b)
		}, brNF: true},
		{name: "IPv4 options", send: func(m []byte, _ int) [][]byte {
			p := udp(ipA3, ipA4, 1, portUDP, m)
			p.options = []byte{7, 7, 4, 0, 0, 0, 0, 0} // record route
			return l2(macA4, typeIPv4, p.bytes())
		}},
	}
}

// groupAttacks address many at once.
func groupAttacks() []attack {
	to := func(dst net.HardwareAddr, ip string) func([]byte, int) [][]byte {
		return func(m []byte, _ int) [][]byte { return l2(dst, typeIPv4, udp(ipA3, addr(ip), 1, portUDP, m).bytes()) }
	}
	reserved := mac("01:80:c2:00:00:0e")
	return []attack{
		{name: "broadcast", send: to(broadcast, "255.255.255.255")},
		{name: "broadcast in the subnet", send: to(broadcast, "10.240.3.255")},
		{name: "broadcast frame for one address", send: to(broadcast, "10.240.3.4")},
		{name: "multicast", send: to(mac("01:00:5e:00:00:fb"), "224.0.0.251")},
		{name: "multicast address in a frame for the host", send: to(macGwA, "224.0.0.1")},
		{name: "broadcast address in a frame for the host", send: to(macGwA, "255.255.255.255")},
		{name: "subnet's broadcast in a frame for the host", send: to(macGwA, "10.240.3.255")},
		{name: "subnet's first address in a frame for the host", send: to(macGwA, "10.240.3.0")},
		{name: "address 0.0.0.0 in a frame for the host", send: to(macGwA, "0.0.0.0"), kernel: true},
		{name: "reserved group, host's address", send: to(reserved, "192.0.2.1")},
		{name: "reserved group, gateway's address", send: to(reserved, "10.240.3.1")},
		{name: "reserved group, 127.0.0.1", send: to(reserved, "127.0.0.1")},
		{name: "reserved group with a neighbour's MAC", send: func(m []byte, _ int) [][]byte {
			return [][]byte{ether(reserved, macA4, 0x88cc, m)}
		}, kernel: true},
	}
}

// TestAttacks tries each attack with br_netfilter off and on.
func TestAttacks(t *testing.T) {
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables "+nf, func(t *testing.T) {
			w := watchedWorld(t, nf)
			all := allAttacks()
			if !w.fence(9000, 10*time.Second) {
				t.Fatalf("what is allowed arrived only at %q", w.arrivals(string(marker(9000))))
			}
			got := w.try(all, true)
			for i, a := range all {
				if got[i] != "" {
					t.Errorf("%s: arrived at %s", a.name, got[i])
				}
			}
		})
	}
}

func allAttacks() []attack {
	return slices.Concat(identityAttacks(), arpAttacks(), protocolAttacks(), groupAttacks(), hostAttacks(), tenantAttacks(), outsideAttacks(), neighbourAttacks(), privateAttacks(), nameAttacks())
}

// try sends every attack and returns where each arrived; strict: once what is allowed
// has passed behind them.
func (w *world) try(all []attack, strict bool) []string {
	w.t.Helper()
	for i, a := range all {
		from := a.from
		if from == "" {
			from = "a3"
		}
		for _, f := range a.send(marker(i), markerPorts+i) {
			w.send(from, pad60(f))
		}
	}
	if strict && !w.fence(9001, 10*time.Second) {
		w.t.Fatalf("what is allowed arrived only at %q after the attacks", w.arrivals(string(marker(9001))))
	}
	got := make([]string, len(all))
	for i, a := range all {
		got[i] = w.arrivals(string(marker(i)))
		if a.answer != "" {
			if at := w.arrivals("arp reply for " + a.answer); at != "" {
				got[i] += fmt.Sprintf("%s (as an ARP answer)", at)
			}
		}
	}
	return got
}

// pad60 fills a frame up to Ethernet's least length.
func pad60(f []byte) []byte { return append(f, bytes.Repeat([]byte{0}, max(0, 60-len(f)))...) }
