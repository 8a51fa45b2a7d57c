package linuxnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/network/linuxnet"
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

// faked is an ICMP error of a3 to somebody about a packet that he sent.
func faked(to netip.Addr, about packet) []byte {
	return ether(macGwA, macA3, typeIPv4, icmp(ipA3, to, 3, 3, slices.Concat(make([]byte, 4), about.bytes())).bytes())
}

// TestFakedErrors shows that a guest cannot break others' connections with ICMP
// errors, which connection tracking would take for genuine.
func TestFakedErrors(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3"} {
		w.watch(name)
	}
	w.send("z3", ether(mac("02:fc:00:04:00:01"), macZ3, typeIPv4, udp(ipZ3, ipOut, 5000, 443, marker(1)).bytes()))
	if !eventually(10*time.Second, func() bool { return strings.Contains(w.arrivals(string(marker(1))), "outside") }) {
		t.Fatal("the other tenant has no connection")
	}
	toOutside := func(id int) []byte { return faked(ipOut, udp(ipOut, ipZ3, 443, 5000, marker(id))) }
	w.send("a3", toOutside(2))
	if !w.fence(9000, 10*time.Second) {
		t.Fatal("what is allowed does not pass")
	}
	if at := w.arrivals(string(marker(2))); at != "" {
		t.Errorf("an error about another tenant's connection arrived at %s", at)
	}
	w.without([]string{"inet forward_from: errors about connections, which may be another's"})
	w.send("a3", toOutside(3))
	if !eventually(10*time.Second, func() bool { return strings.Contains(w.arrivals(string(marker(3))), "outside") }) {
		t.Error("the error does not arrive without the rule, so this test shows nothing")
	}
}

// TestFakedErrorsToHost is the same for a connection of the host to a neighbour.
func TestFakedErrorsToHost(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3"} {
		w.watch(name)
	}
	var c net.Conn
	w.host.do(func() { c, _ = net.Dial("udp4", "10.240.3.4:9") })
	if c == nil {
		t.Fatal("the host cannot send to a guest")
	}
	defer c.Close()
	port := c.LocalAddr().(*net.UDPAddr).Port
	refused := func(within time.Duration) bool {
		return eventually(within, func() bool {
			if _, err := c.Write([]byte("hello")); errors.Is(err, syscall.ECONNREFUSED) {
				return true
			}
			w.send("a3", faked(gwA, udp(gwA, ipA4, port, 9, []byte("hello"))))
			_, err := c.Write([]byte("hello"))
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
	if refused(200 * time.Millisecond) {
		t.Error("a neighbour's error broke the host's connection")
	}
	w.host.run("nft", "insert", "rule", "inet", "mvm", "input_from", "ct", "state", "related", "accept")
	if !refused(10 * time.Second) {
		t.Error("the error does not arrive without the rules, so this test shows nothing")
	}
}

// TestOwnNamespace shows that a Network without a namespace named works in the one
// that its caller is in.
func TestOwnNamespace(t *testing.T) {
	ns := newNamespace(t)
	ns.do(func() {
		n, err := linuxnet.New(linuxnet.Options{})
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		defer n.Close()
		cfg := twoTenants()
		if err := n.Apply(context.Background(), cfg); err != nil {
			t.Errorf("apply: %v", err)
			return
		}
		f, err := n.OpenTAP(context.Background(), "acme", cfg.Tenants[0].Instances[0].ID, 0)
		if err != nil {
			t.Errorf("open TAP: %v", err)
			return
		}
		defer f.Close()
		if found, err := n.Verify(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("verify: got %+v, %v, want nothing", found, err)
		}
	})
}
