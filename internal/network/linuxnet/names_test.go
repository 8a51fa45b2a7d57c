package linuxnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
)

// open has the addresses open for b3 for a time.
func (w *world) open(t *testing.T, d time.Duration, addrs ...netip.Addr) {
	t.Helper()
	var list []network.Admission
	for _, a := range addrs {
		list = append(list, network.Admission{Address: a, For: d})
	}
	if err := w.net.Admit(context.Background(), "beta", w.cfg.Tenants[2].Instances[0].ID, list); err != nil {
		t.Fatal(err)
	}
}

// TestNames has a guest whose egress has a name: it connects where the name led, for as long
// as that is open, and what it has open goes on.
func TestNames(t *testing.T) {
	const web = "192.0.2.2:443"
	w := newWorld(t, "0", linuxnet.Options{})
	b3 := w.guest("b3")
	w.echo(w.outside, ":443")
	w.beta(t, true, []string{"api.example.com"})
	refused := func(when string) {
		t.Helper()
		if c, err := b3.dial(web, 10*time.Second); !errors.Is(err, unix.EHOSTUNREACH) { // told at once
			t.Errorf("%s: connect: %v, %v, want it refused", when, c, err)
		}
	}
	reached := func(when string) net.Conn {
		t.Helper()
		c, err := b3.dial(web, 10*time.Second)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			err = echoOver(c, 160)
		}
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		return c
	}
	refused("before the name was asked for")
	w.open(t, 2*time.Second, ipOut)
	first := reached("opened")
	if !eventually(time.Minute, func() bool {
		return !strings.Contains(w.host.run("nft", "list", "set", "inet", "mvm", "answers"), "192.0.2.2")
	}) {
		t.Fatal("what was opened for 2 s is open after a minute")
	}
	refused("when the time is over")
	if err := echoOver(first, 1600); err != nil {
		t.Errorf("a connection that is open, when the time is over: %v", err)
	}
	w.open(t, 2*time.Second, ipOut)
	w.open(t, time.Hour, ipOut)
	if set := w.host.run("nft", "list", "set", "inet", "mvm", "answers"); !strings.Contains(set, "timeout 1h") && !strings.Contains(set, "59m") {
		t.Errorf("opened again for longer: %s", set)
	}
	w.host.run("nft", "flush", "ruleset")
	w.beta(t, true, []string{"api.example.com"})
	reached("with the rules made anew")
	w.beta(t, true, []string{"api.example.com", "10.0.9.0/24"})
	refused("with another egress")
	_ = first.SetDeadline(time.Now().Add(time.Minute))
	_, werr := first.Write([]byte("still there?"))
	if _, err := first.Read(make([]byte, 1)); werr == nil && err == nil {
		t.Error("a connection goes on although the egress is another")
	}
	w.beta(t, true, nil)
	reached("without names")
}

// TestNamesOfTheInstanceBefore: what names opened for an instance is not open for the next
// one at its address.
func TestNamesOfTheInstanceBefore(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	w.beta(t, true, []string{"api.example.com"})
	w.open(t, time.Hour, ipOut)
	w.cfg.Tenants[2].Instances[0].ID = "i-0000beef"
	w.beta(t, true, []string{"api.example.com"})
	if set := w.host.run("nft", "list", "set", "inet", "mvm", "answers"); strings.Contains(set, "192.0.2.2") {
		t.Errorf("the next instance has what the one before had: %s", set)
	}
}

// TestConnectionsThatStay: where connections can't be cleared after a change of egress, that is
// tried again, and what names open meanwhile stays open.
func TestConnectionsThatStay(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	w.beta(t, true, []string{"api.example.com"})
	w.open(t, time.Hour, ipOut)
	tries, fails := 0, errors.New("the kernel has no connection tracking")
	w.net.CutWith(func(map[netip.Addr]bool) error { tries++; return fails })
	answers := func() bool {
		return strings.Contains(w.host.run("nft", "list", "set", "inet", "mvm", "answers"), "192.0.2.2")
	}
	list := []string{"api.example.com", "10.0.9.0/24"}
	if w.beta(t, true, list); answers() {
		t.Error("what a name opened stays open after a change of egress")
	}
	w.open(t, time.Hour, ipOut)
	for n, err := range []error{fails, nil, nil} {
		fails = err
		if w.beta(t, true, list); !answers() {
			t.Errorf("look %d: what a name opened after the change is closed", n)
		}
	}
	if tries != 3 {
		t.Errorf("clearing connections, which works at the third try, was tried %d times", tries)
	}
}

// resolver takes beta's sockets, with the setting in force.
func (w *world) resolver(t *testing.T) (*net.UDPConn, net.Listener) {
	t.Helper()
	w.cfg.Tenants[2].Resolver = true
	w.beta(t, true, nil)
	udp, tcp, err := w.net.OpenResolver(context.Background(), "beta")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = udp.Close(), tcp.Close() }()
	u, err := net.FilePacketConn(udp)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(tcp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = u.Close(), l.Close() })
	return u.(*net.UDPConn), l
}

// TestResolverSockets: the tenant's own guests reach them, as who they are, and nobody else.
func TestResolverSockets(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3", "b3", "b6"} {
		w.watch(name)
	}
	u, l := w.resolver(t)
	gw := guestAt(1)
	w.send("a3", ether(macGwA, macA3, typeIPv4, udp(ipA3, gw, 1, 53, marker(1)).bytes()))                // another tenant's
	w.send("a3", ether(macGwA, macA3, typeIPv4, udp(guestAt(3), gw, 1, 53, marker(2)).bytes()))          // as beta's
	w.send("b6", ether(betaMAC(1), betaMAC(6), typeIPv4, udp(guestAt(3), gw, 1, 53, marker(3)).bytes())) // as its neighbour
	w.send("outside", ether(macHost, macOut, typeIPv4, udp(ipOut, gw, 1, 53, marker(4)).bytes()))
	w.send("b3", out5(udp(guestAt(3), gw, 1, 53, marker(5)))[0])
	b := make([]byte, 100)
	_ = u.SetReadDeadline(time.Now().Add(time.Minute))
	n, from, err := u.ReadFromUDPAddrPort(b)
	if err != nil || markerIn(b[:n]) != string(marker(5)) || from.Addr().Unmap() != guestAt(3) {
		t.Errorf("the resolver got %q of %s, %v, want only b3's packet", b[:n], from, err)
	}
	if _, _, err := w.net.OpenResolver(context.Background(), "beta"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	for _, name := range []string{"b3"} {
		_ = w.taps[name].Close()
	}
	if !eventually(10*time.Second, func() bool { return !strings.Contains(strings.Join(w.host.links(), " "), "tn5i3") }) {
		t.Fatal("the TAP stays after it was closed")
	}
	b3 := w.guest("b3")
	c, err := b3.dial("10.240.5.1:53", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	got, err := l.Accept()
	if err != nil || !strings.HasPrefix(got.RemoteAddr().String(), "10.240.5.3:") {
		t.Errorf("by TCP: %v, %v", got, err)
	}
	_ = got.Close()
	w.cfg.Tenants[2].Resolver = false
	w.beta(t, true, nil)
	if c, err := b3.dial("10.240.5.1:53", 500*time.Millisecond); err == nil {
		t.Errorf("without a resolver: connect: %v, %v", c, err)
	}
}

// TestNamesFlood: the kernel lets through so many packets of questions of a guest, and those
// of its neighbour.
func TestNamesFlood(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"b3", "b6"} {
		w.watch(name)
	}
	u, _ := w.resolver(t)
	if err := u.SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	gw := guestAt(1)
	begun := time.Now()
	for range 4000 {
		w.send("b3", out5(udp(guestAt(3), gw, 1, 53, marker(1)))[0])
	}
	w.send("b6", ether(betaMAC(1), betaMAC(6), typeIPv4, udp(guestAt(6), gw, 1, 53, marker(2)).bytes()))
	most := 800 + int(200*time.Since(begun).Seconds()) + 200
	heard, b := 0, make([]byte, 100)
	_ = u.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		n, _, err := u.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatalf("the neighbour is not heard: %v", err)
		}
		if markerIn(b[:n]) == string(marker(2)) {
			break
		}
		heard++
	}
	if heard == 0 || heard > most && most < 4000 {
		t.Errorf("%d of 4000 packets at once are heard, want at most %d", heard, most)
	}
}
