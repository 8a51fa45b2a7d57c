package linuxnet_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/egress"
	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
)

// TestEgress is the table of destinations by setting: the guest sends, and the outside sees
// the packet or not.
func TestEgress(t *testing.T) {
	for _, c := range []struct {
		name    string
		open    bool
		egress  []string
		led     []string // where names led, of a private network too
		reaches []string // of destinations
	}{
		{name: "a tenant from before", open: true, reaches: []string{"internet", "internet 53", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "192.168.1.1:53/tcp", "192.168.1.1:53/udp", "100.64.0.9:443/tcp", "10.0.5.7 gre"}},
		{name: "closed", reaches: []string{"internet"}},
		{name: "a network", egress: []string{"10.0.5.0/24"}, reaches: []string{"internet", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.5.7 gre"}},
		{name: "one port", egress: []string{"10.0.5.7:443"}, reaches: []string{"internet", "10.0.5.7:443/tcp"}},
		{name: "a protocol", egress: []string{"10.0.0.0/8:udp"}, reaches: []string{"internet", "10.0.5.7:53/udp"}},
		{name: "overlapping", egress: []string{"10.0.5.0/24:443", "10.0.0.0/8:tcp", "10.0.5.7", "10.0.0.0/16:53/udp", "10.0.5.7:443"}, reaches: []string{"internet", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "10.0.5.7 gre"}},
		{name: "everything", egress: []string{"0.0.0.0/0"}, reaches: []string{"internet", "internet 53", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "192.168.1.1:53/tcp", "192.168.1.1:53/udp", "100.64.0.9:443/tcp", "10.0.5.7 gre"}},
		{name: "a name server", egress: []string{"192.168.1.1:53/udp", "192.168.1.1:53/tcp"}, reaches: []string{"internet", "192.168.1.1:53/tcp", "192.168.1.1:53/udp"}},
		{name: "a name", egress: []string{"api.example.com"}},
		{name: "a name that led there", egress: []string{"api.example.com"}, led: []string{"192.0.2.2", "10.0.5.7", "169.254.169.254", "10.240.4.3"}, reaches: []string{"internet"}},
		{name: "a name and a network", egress: []string{"*.example.com", "10.0.5.0/24"}, reaches: []string{"10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.5.7 gre"}},
		{name: "a name and everything", egress: []string{"*.example.com", "0.0.0.0/0:443"}, led: []string{"192.0.2.2"}, reaches: []string{"internet", "10.0.5.7:443/tcp", "10.0.6.1:443/tcp", "100.64.0.9:443/tcp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "0", linuxnet.Options{})
			for _, name := range []string{"a3", "a4", "z3", "b3"} {
				w.watch(name)
			}
			w.beta(t, !c.open, c.egress, c.led...)
			w.wantReach(t, 100, c.reaches)
		})
	}
}

// TestEgressChanges changes the setting under a running guest: every step is in force with
// the end of Apply, also for a flow that was allowed before.
func TestEgressChanges(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3", "b3"} {
		w.watch(name)
	}
	for n, c := range []struct{ egress, reaches []string }{
		{[]string{"10.0.0.0/8"}, []string{"internet", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "10.0.5.7 gre"}},
		{[]string{"10.0.0.0/24", "10.0.5.0/24"}, []string{"internet", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.5.7 gre"}},
		{[]string{"10.0.5.0/24", "10.0.0.0/8:443"}, []string{"internet", "10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "10.0.5.7 gre"}},
		{nil, []string{"internet"}},
	} {
		w.beta(t, true, c.egress)
		w.wantReach(t, 100*(n+1), c.reaches)
	}
}

// beta applies a setting of the tenant beta.
func (w *world) beta(t *testing.T, closed bool, list []string, led ...string) {
	t.Helper()
	tenant := &w.cfg.Tenants[2]
	tenant.Closed, tenant.Egress, tenant.Instances[0].Egress = closed, nil, 0
	if len(list) > 0 {
		all, err := egress.ParseAll(list)
		if err != nil {
			t.Fatal(err)
		}
		tenant.Egress, tenant.Instances[0].Egress = [][]egress.Destination{all}, 1
	}
	if err := w.net.Apply(context.Background(), w.cfg); err != nil {
		t.Fatalf("apply: %v", err)
	}
	for _, a := range led {
		if err := w.net.Admit(context.Background(), tenant.ID, tenant.Instances[0].ID, []network.Admission{{Address: addr(a), For: time.Hour}}); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := w.net.Verify(context.Background()); err != nil || slices.ContainsFunc(found, func(f network.Finding) bool { return f.Severity == "error" }) {
		t.Fatalf("verify: %+v, %v", found, err)
	}
}

// destinations are what b3 tries: a packet for each, with the marker in its data.
func destinations() map[string]func(m []byte) packet {
	from := guestAt(3)
	out := map[string]func([]byte) packet{
		"internet":                 func(m []byte) packet { return udp(from, ipOut, 1, 443, m) },
		"internet 53":              func(m []byte) packet { return udp(from, ipOut, 1, 53, m) },
		"link-local":               func(m []byte) packet { return udp(from, addr("169.254.169.254"), 1, 80, m) },
		"another tenant":           func(m []byte) packet { return udp(from, ipZ3, 1, portUDP, m) },
		"a tenant of another host": func(m []byte) packet { return udp(from, addr("10.250.7.3"), 1, portUDP, m) },
		"the host":                 func(m []byte) packet { return udp(from, ipHost, 1, portUDP, m) },
		"multicast":                func(m []byte) packet { return udp(from, addr("224.0.0.251"), 1, 5353, m) },
		"10.0.5.7 gre": func(m []byte) packet {
			return packet{src: from, dst: addr("10.0.5.7"), proto: 47, payload: slices.Concat([]byte{0, 0, 8, 0}, m)}
		},
	}
	for _, to := range []string{"10.0.5.7:443/tcp", "10.0.5.7:53/udp", "10.0.6.1:443/tcp", "192.168.1.1:53/tcp", "192.168.1.1:53/udp", "100.64.0.9:443/tcp"} {
		where, proto, _ := strings.Cut(to, "/")
		ap := netip.MustParseAddrPort(where)
		out[to] = func(m []byte) packet {
			if proto == "tcp" {
				return tcp(from, ap.Addr(), 4000, int(ap.Port()), flagSYN, m)
			}
			return udp(from, ap.Addr(), 1, int(ap.Port()), m)
		}
	}
	return out
}

// wantReach sends to every destination, and then what is allowed, and looks at what came out.
func (w *world) wantReach(t *testing.T, from int, reaches []string) {
	t.Helper()
	ids := map[string]int{}
	for name, make := range destinations() {
		ids[name] = from + len(ids)
		for _, f := range out5(make(marker(ids[name]))) {
			w.send("b3", pad60(f))
		}
	}
	if !w.fence(from+99, 10*time.Second) {
		t.Fatalf("what is allowed arrived only at %q", w.arrivals(string(marker(from+99))))
	}
	for name, id := range ids {
		want := slices.Contains(reaches, name)
		got := w.arrivals(string(marker(id))) // also at b3: the outside answers some with an error
		if reached := strings.Contains(got, "outside"); reached != want || !want && got != "" {
			t.Errorf("%s: arrived at %q, want it outside: %t", name, got, want)
		}
	}
}

// TestRefusals shows that a refused guest is answered at once, that Verify tells what was
// refused, and that a guest can't fill either with it.
func TestRefusals(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3", "b3"} {
		w.watch(name)
	}
	w.send("b3", out5(tcp(guestAt(3), addr("192.168.1.9"), 4000, 8443, flagSYN, marker(1)))[0])
	if !eventually(10*time.Second, func() bool { return w.arrivals("error 3/13 about "+string(marker(1))) == "b3" }) {
		t.Error("the guest was not told that the way is closed")
	}
	refused := func() (out []network.Finding) {
		found, err := w.net.Verify(context.Background())
		if err != nil {
			t.Fatalf("verify: %v", err)
		}
		return slices.DeleteFunc(found, func(f network.Finding) bool { return !strings.Contains(f.What, "refused") })
	}
	got := refused()
	if len(got) != 1 || got[0].Severity != "warning" || !strings.Contains(got[0].What, "192.168.1.9:8443/tcp") || !strings.Contains(got[0].Where, "beta/") {
		t.Errorf("verify tells of the refusal: %+v", got)
	}
	for n := range 300 {
		w.send("b3", out5(udp(guestAt(3), addr(fmt.Sprintf("192.168.2.%d", n%256)), 1, 1000+n, marker(2)))[0])
	}
	if !w.fence(99, 10*time.Second) {
		t.Fatal("what is allowed does not pass")
	}
	if got := refused(); len(got) < 1 || len(got) > 6 {
		t.Errorf("300 refusals of a guest make %d findings: %+v", len(got), got)
	}
	if n := strings.Count(w.host.run("nft", "list", "set", "inet", "mvm", "refused"), "192.168."); n > 60 {
		t.Errorf("the kernel keeps %d refusals of 300 at once, want about 30", n)
	}
}

// TestNeighbours shows what a user's instance reaches, and that a change holds for TAPs that
// are there.
func TestNeighbours(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3", "b3", "b6", "b7", "b8"} {
		w.watch(name)
	}
	id := 0
	want := func(when string, reach bool) {
		t.Helper()
		id += 100
		sent := map[string]int{}
		for _, pair := range []string{"b7 b6", "b6 b7", "b3 b6", "b7 b8", "b8 b7", "b7 b3", "b3 b7"} {
			sent[pair] = id + len(sent)
			src, dst := int(pair[1]-'0'), int(pair[4]-'0')
			w.send(pair[:2], ether(betaMAC(dst), betaMAC(src), typeIPv4, udp(guestAt(src), guestAt(dst), 1, portUDP, marker(sent[pair])).bytes()))
		}
		if !w.fence(id+99, 10*time.Second) {
			t.Fatal("what is allowed does not pass")
		}
		for pair, n := range sent {
			to := ""
			if reach || strings.Contains(pair, "b6") {
				to = pair[3:]
			}
			if got := w.arrivals(string(marker(n))); got != to && !eventually(2*time.Second, func() bool { return w.arrivals(string(marker(n))) == to }) {
				t.Errorf("%s, %s: arrived at %q, want %q", when, pair, got, to)
			}
		}
		if found, err := w.net.Verify(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("%s: verify: %+v, %v", when, found, err)
		}
	}
	set := func(alone bool) {
		t.Helper()
		w.cfg.Tenants[2].Instances[2].Alone, w.cfg.Tenants[2].Instances[3].Alone = alone, alone
		if err := w.net.Apply(context.Background(), w.cfg); err != nil {
			t.Fatalf("apply: %v", err)
		}
	}
	want("alone", false)
	set(false)
	want("peers", true)
	set(true)
	want("alone again", false)
	w.host.run("bridge", "link", "set", "dev", "tn5i7", "isolated", "off")
	if found, err := w.net.Verify(context.Background()); err != nil || len(found) != 1 || !strings.Contains(found[0].What, "isolated") {
		t.Errorf("verify finds a port that is not isolated: %+v, %v", found, err)
	}
	w.host.run("nft", "flush", "ruleset") // Apply looks at everything then
	set(true)
	want("repaired", false)
}

// TestHostUsers shows that only mvm's users, and root, begin connections to guests.
func TestHostUsers(t *testing.T) {
	const caller, other = 54321, 54322
	w := newWorld(t, "0", linuxnet.Options{Callers: []int{caller}})
	for _, name := range []string{"a3", "a4", "z3", "b3"} {
		w.watch(name)
	}
	for n, c := range []struct {
		user    int
		reaches bool
	}{{0, true}, {caller, true}, {other, false}} {
		m := marker(100 + n)
		w.host.do(func() {
			if err := unix.Setfsuid(c.user); err != nil {
				t.Error(err)
			}
			defer func() { _ = unix.Setfsuid(0) }()
			conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: ipA3.AsSlice(), Port: 9})
			if err != nil {
				t.Errorf("user %d: %v", c.user, err)
				return
			}
			defer conn.Close()
			if _, err := conn.Write(m); c.reaches && err != nil {
				t.Errorf("user %d: %v", c.user, err)
			}
		})
		if !w.fence(900+n, 10*time.Second) {
			t.Fatal("what is allowed does not pass")
		}
		if got := w.arrivals(string(m)); (got == "a3") != c.reaches {
			t.Errorf("user %d: arrived at %q", c.user, got)
		}
	}
}
