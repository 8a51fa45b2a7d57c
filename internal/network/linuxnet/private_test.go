package linuxnet_test

import (
	"net"
	"net/netip"

	"mvm"
)

// neighbourAttacks are honest frames between a user's instance and others of its tenant
// that are no gateways.
func neighbourAttacks() []attack {
	frame := func(from string, to, src, dst int, via bool) attack {
		return attack{from: from, send: func(m []byte, _ int) [][]byte {
			mac := mvm.MAC(5, to)
			if via {
				mac = mvm.MAC(5, 1)
			}
			return one(ether(mac, mvm.MAC(5, src), typeIPv4, udp(guestAt(src), guestAt(dst), 1, portUDP, m).bytes()))
		}}
	}
	var out []attack
	for _, c := range []struct {
		name, from string
		src, dst   int
	}{{"user to user", "b7", 7, 8}, {"user to worker", "b7", 7, 3}, {"worker to user", "b3", 3, 7}} {
		direct, routed := frame(c.from, c.dst, c.src, c.dst, false), frame(c.from, c.dst, c.src, c.dst, true)
		direct.name, routed.name = c.name, c.name+" through the host"
		out = append(out, direct, routed)
	}
	return append(out, attack{name: "ARP of a user's instance", from: "b7", send: func(m []byte, _ int) [][]byte {
		return one(ether(broadcast, mvm.MAC(5, 7), typeARP, arp(1, mvm.MAC(5, 7), guestAt(7), make([]byte, 6), guestAt(8), m)))
	}})
}

// guestAt is the address of beta's instance at the offset.
func guestAt(offset int) netip.Addr {
	a, _ := mvm.SubnetAddr(mvm.DefaultSubnet(5), offset)
	return a
}

// privateAttacks go from a closed tenant's guest to networks that are not the internet.
func privateAttacks() []attack {
	var out []attack
	for _, to := range []string{"10.1.2.3", "172.16.5.1", "172.31.255.254", "192.168.1.1", "100.64.0.1", "100.127.255.254", "192.0.0.8", "198.18.0.1", "198.19.255.254", "240.0.0.1"} {
		out = append(out, attack{from: "b3", name: "private " + to, send: func(m []byte, _ int) [][]byte {
			return out5(udp(guestAt(3), addr(to), 1, portUDP, m))
		}})
	}
	return append(out, attack{from: "b3", name: "private, TCP", send: func(_ []byte, port int) [][]byte {
		return out5(tcp(guestAt(3), addr("192.168.1.1"), port, 443, flagSYN, nil))
	}}, attack{from: "b3", name: "private, ping", send: func(m []byte, _ int) [][]byte {
		return out5(ping(guestAt(3), addr("192.168.1.1"), m))
	}}, attack{from: "b3", name: "private, in fragments", send: func(m []byte, _ int) [][]byte {
		p := udp(guestAt(3), addr("192.168.1.1"), 1, portUDP, m)
		first, rest := p, p
		first.id, first.frag, first.payload = 78, 0x2000, p.payload[:8]
		rest.id, rest.frag, rest.payload = 78, 1, p.payload[8:]
		return append(out5(first), out5(rest)...)
	}}, attack{from: "b3", name: "private, of another protocol", send: func(m []byte, _ int) [][]byte {
		return out5(packet{src: guestAt(3), dst: addr("192.168.1.1"), proto: 47, payload: m})
	}})
}

// nameAttacks ask name servers on the internet.
func nameAttacks() []attack {
	return []attack{{from: "b3", name: "name server, UDP", send: func(m []byte, _ int) [][]byte {
		return out5(udp(guestAt(3), ipOut, 1, 53, m))
	}}, {from: "b3", name: "name server, TCP", send: func(_ []byte, port int) [][]byte {
		return out5(tcp(guestAt(3), ipOut, port, 53, flagSYN, nil))
	}}, {from: "b3", name: "name server, in fragments", send: func(m []byte, _ int) [][]byte {
		p := udp(guestAt(3), ipOut, 1, 53, m)
		first, rest := p, p
		first.id, first.frag, first.payload = 79, 0x2000, p.payload[:8]
		rest.id, rest.frag, rest.payload = 79, 1, p.payload[8:]
		return append(out5(first), out5(rest)...)
	}}}
}

// out5 is an honest frame of b3 to the host that carries the packet.
func out5(p packet) [][]byte {
	return one(ether(mvm.MAC(5, 1), mvm.MAC(5, 3), typeIPv4, p.bytes()))
}

func betaMAC(offset int) net.HardwareAddr { return mvm.MAC(5, offset) }
