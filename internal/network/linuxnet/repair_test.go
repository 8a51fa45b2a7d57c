package linuxnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
	"mvm/internal/network/networktest"
)

func twoTenants() network.Config {
	cfg := networktest.Config(networktest.Tenant("acme", 3, 3, 4), networktest.Tenant("zeta", 4, 3))
	cfg.Tenants[0].HostPorts = []int{8080}
	return cfg
}

func apply(t testing.TB, n *linuxnet.Network, cfg network.Config) {
	t.Helper()
	if err := n.Apply(context.Background(), cfg); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// damages are what others, or a crash, do to a host's network.
var damages = []struct {
	name string
	argv []string
	find string // in a finding's what
}{
	{"ruleset flushed", []string{"nft", "flush", "ruleset"}, "is missing"},
	{"table gone", []string{"nft", "delete", "table", "bridge", "mvm"}, "bridge table is missing"},
	{"chain flushed", []string{"nft", "flush", "chain", "inet", "mvm", "input_from"}, "chain input_from was changed"},
	{"rule added", []string{"nft", "insert", "rule", "inet", "mvm", "forward", "accept"}, "chain forward was changed"},
	{"chain added", []string{"nft", "add", "chain", "inet", "mvm", "mine"}, "chain mine is not mvm's"},
	{"set added", []string{"nft", "add", "set", "bridge", "mvm", "mine", "{ type ether_addr; }"}, "set mine is not mvm's"},
	{"element added", []string{"nft", "add", "element", "inet", "mvm", "services", `{ "br-tenant-3" . 10.240.3.1 . 22 }`}, "1 elements that belong to no tenant"},
	{"element removed", []string{"nft", "delete", "element", "bridge", "mvm", "ports", `{ "tn3i3" . 02:fc:00:03:00:03 . 10.240.3.3 }`}, "lacks 1 elements"},
	{"table asleep", []string{"nft", "add", "table", "inet", "mvm", "{ flags dormant; }"}, "inet table was changed"},
	{"bridge gone", []string{"ip", "link", "del", "br-tenant-3"}, "is missing"},
	{"bridge down", []string{"ip", "link", "set", "br-tenant-3", "down"}, "bridge is down"},
	{"bridge of another MAC", []string{"ip", "link", "set", "br-tenant-3", "address", "02:00:00:00:00:01"}, "another MAC"},
	{"address gone", []string{"ip", "addr", "del", "10.240.3.1/24", "dev", "br-tenant-3"}, "lacks its address"},
	{"address added", []string{"ip", "addr", "add", "10.240.3.9/24", "dev", "br-tenant-3"}, "further address"},
	{"snooping on", []string{"ip", "link", "set", "br-tenant-3", "type", "bridge", "mcast_snooping", "1"}, "snooping"},
	{"proxy ARP on", []string{"sysctl", "-w", "net.ipv4.conf.br-tenant-3.proxy_arp=1"}, "setting is 1 instead of 0"},
	{"IPv6 on", []string{"sysctl", "-w", "net.ipv6.conf.br-tenant-3.disable_ipv6=0"}, "setting is 0 instead of 1"},
	{"forwarding off", []string{"sysctl", "-w", "net.ipv4.ip_forward=0"}, "setting is 0 instead of 1"},
}

// TestDamage shows that Verify finds each damage and that the first Apply of a new
// agent repairs it, so that nothing is found any more.
func TestDamage(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			ns := newNamespace(t)
			first := open(t, ns, linuxnet.Options{})
			apply(t, first, twoTenants())
			wantFindings(t, first)
			ns.run(d.argv...)
			wantFindings(t, first, d.find)
			second := open(t, ns, linuxnet.Options{})
			apply(t, second, twoTenants())
			wantFindings(t, second)
		})
	}
}

// wantFindings checks that Verify finds something with each of the texts, each with
// its fix, and nothing at all when there are none.
func wantFindings(t *testing.T, n *linuxnet.Network, texts ...string) {
	t.Helper()
	found, err := n.Verify(context.Background())
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if len(texts) == 0 && len(found) > 0 {
		t.Fatalf("verify: got %+v, want nothing", found)
	}
	for _, text := range texts {
		ok := false
		for _, f := range found {
			ok = ok || strings.Contains(f.What, text) && f.Fix != "" && f.Where != ""
		}
		if !ok {
			t.Errorf("verify: got %+v, want a finding about %q", found, text)
		}
	}
}

// TestFlushIsNoticed shows that the same Network notices at its next Apply when
// another program flushed the rules, although the Config is the same.
func TestFlushIsNoticed(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	apply(t, n, twoTenants())
	before := ns.run("nft", "list", "ruleset")
	ns.run("nft", "flush", "ruleset")
	apply(t, n, twoTenants())
	if after := ns.run("nft", "list", "ruleset"); after != before {
		t.Errorf("after a flush and an apply: got\n%s\nwant\n%s", after, before)
	}
	ns.run("nft", "flush", "ruleset")
	f, err := n.OpenTAP(context.Background(), "acme", twoTenants().Tenants[0].Instances[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if after := ns.run("nft", "list", "ruleset"); after != before {
		t.Errorf("after a flush and a TAP: got\n%s\nwant\n%s", after, before)
	}
}

func TestOpenTAPRepairsBridge(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	apply(t, n, twoTenants())
	ns.run("ip", "link", "del", "br-tenant-3")
	f, err := n.OpenTAP(context.Background(), "acme", twoTenants().Tenants[0].Instances[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wantFindings(t, n)
}

// TestRestart shows that a new agent with the same Config changes nothing.
func TestRestart(t *testing.T) {
	ns := newNamespace(t)
	apply(t, open(t, ns, linuxnet.Options{}), twoTenants())
	before := ns.state()
	second := open(t, ns, linuxnet.Options{})
	apply(t, second, twoTenants())
	if removed, err := second.Sweep(context.Background()); err != nil || len(removed) > 0 {
		t.Errorf("sweep: got %q, %v, want nothing removed", removed, err)
	}
	if after := ns.state(); after != before {
		t.Errorf("a restart changed the state from\n%s\nto\n%s", before, after)
	}
}

// TestNothingIsLeft shows that with the last tenant everything goes, and that other
// programs' things stay.
func TestNothingIsLeft(t *testing.T) {
	ns := newNamespace(t)
	ns.run("nft", "add table inet other; add chain inet other forward { type filter hook forward priority 0; policy accept; }")
	ns.run("ip", "link", "add", "tn0", "type", "bridge")
	ns.run("ip", "link", "add", "br-tenant-x", "type", "bridge")
	before := ns.run("nft", "-j", "list", "ruleset") + ns.run("ip", "-o", "link")
	crashed := open(t, ns, linuxnet.Options{})
	apply(t, crashed, twoTenants())
	f, err := crashed.OpenTAP(context.Background(), "acme", twoTenants().Tenants[0].Instances[0].ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // a VMM that nobody owns
	n := open(t, ns, linuxnet.Options{})
	apply(t, n, network.Config{})
	if out := ns.run("nft", "list", "tables"); !strings.Contains(out, "bridge mvm") {
		t.Error("the rules went although a TAP is left")
	}
	removed, err := n.Sweep(context.Background())
	if got, want := fmt.Sprint(removed), "[br-tenant-3 br-tenant-4 nftables tables mvm tn3i3]"; err != nil || got != want {
		t.Errorf("sweep: got %s, %v, want %s", got, err, want)
	}
	if after := ns.run("nft", "-j", "list", "ruleset") + ns.run("ip", "-o", "link"); after != before {
		t.Errorf("left behind: got\n%s\nwant\n%s", after, before)
	}
	if removed, err := n.Sweep(context.Background()); err != nil || len(removed) > 0 {
		t.Errorf("second sweep: got %q, %v, want nothing removed", removed, err)
	}
}

func TestSubnetChanges(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	cfg := twoTenants()
	apply(t, n, cfg)
	cfg.Tenants[0].Subnet = mvm.DefaultSubnet(77)
	apply(t, n, cfg)
	wantFindings(t, n)
}

// TestManyInstances applies 20 tenants with 25 instances each in one go.
func TestManyInstances(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	var cfg network.Config
	for id := range 20 {
		var offsets []int
		for o := range 25 {
			offsets = append(offsets, 3+o)
		}
		cfg.Tenants = append(cfg.Tenants, networktest.Tenant(fmt.Sprintf("t%d", id), id, offsets...))
	}
	apply(t, n, cfg)
	wantFindings(t, n)
	start := time.Now()
	for range 100 {
		apply(t, n, cfg)
	}
	t.Logf("an apply that changes nothing took %v", time.Since(start)/100)
	if removed, err := n.Sweep(context.Background()); err != nil || len(removed) > 0 {
		t.Errorf("sweep: got %q, %v, want nothing removed", removed, err)
	}
	big := networktest.Config(networktest.Tenant("big", 9))
	big.Tenants[0].Subnet = netip.MustParsePrefix("10.240.0.0/16")
	for o := range 3000 {
		big.Tenants[0].Instances = append(big.Tenants[0].Instances, network.Instance{ID: fmt.Sprintf("i-%08x", o), Offset: 3 + o})
	}
	apply(t, n, big)
	wantFindings(t, n)
	apply(t, n, network.Config{})
	if out := ns.run("nft", "list", "ruleset"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// TestPoisoning shows that a guest cannot teach the bridge a neighbour's MAC.
func TestPoisoning(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	w.watch("a3")
	w.watch("a4")
	before := w.host.run("bridge", "fdb", "show", "br", "br-tenant-3")
	for _, dst := range []string{"01:80:c2:00:00:0e", "01:80:c2:00:00:00", "ff:ff:ff:ff:ff:ff", "02:fc:00:03:00:01"} {
		w.send("a3", pad60(ether(mac(dst), macA4, 0x88cc, []byte("hello"))))
		w.send("a3", pad60(ether(mac(dst), mac("02:00:00:00:00:99"), typeIPv4, udp(ipA3, gwA, 1, 1, nil).bytes())))
	}
	if after := w.host.run("bridge", "fdb", "show", "br", "br-tenant-3"); after != before {
		t.Errorf("the bridge learned: got\n%s\nwant\n%s", after, before)
	}
}

// TestOthersDrop shows the warning about another program's rules, and that its fix
// ends it and lets traffic pass.
func TestOthersDrop(t *testing.T) {
	w := newWorld(t, "1", linuxnet.Options{})
	w.host.run("nft", "add table ip docker; add chain ip docker FORWARD { type filter hook forward priority 0; policy drop; }")
	found, err := w.net.Verify(context.Background())
	if err != nil || len(found) != 1 || found[0].Severity != "warning" || found[0].Where != "nftables chain ip docker FORWARD" {
		t.Fatalf("verify: got %+v, %v, want one warning about the chain", found, err)
	}
	a3, a4 := w.guest("a3"), w.guest("a4")
	w.echo(w.outside, ":443")
	w.echo(a4.testNS, ":22")
	if c, err := a3.dial("192.0.2.2:443", 300*time.Millisecond); err == nil {
		c.Close()
		t.Error("the other program's rules drop nothing, so this test shows nothing")
	}
	fix, _, _ := strings.Cut(found[0].Fix, " (")
	for _, command := range strings.Split(fix, "; ") {
		w.host.run("nft", strings.ReplaceAll(strings.TrimPrefix(command, "nft "), "'", ""))
	}
	wantFindings(t, w.net)
	for _, to := range []string{"192.0.2.2:443", "10.240.3.4:22"} {
		if err := talk(a3.testNS, to, 160); err != nil {
			t.Errorf("%s with the fix: %v", to, err)
		}
	}
}

func TestForeignInterfaces(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	apply(t, n, twoTenants())
	ns.run("ip", "link", "add", "eth7", "type", "veth")
	ns.run("ip", "link", "set", "eth7", "master", "br-tenant-3")
	ns.run("ip", "addr", "add", "10.240.4.200/30", "dev", "eth7")
	ns.run("ip", "link", "set", "eth7", "up")
	ns.run("ip", "link", "add", "tn9i9", "type", "bridge")
	wantFindings(t, n, "foreign interface is a port", "belongs to no tenant", "10.240.4.200/30 lies in the subnet", "a route to 10.240.4.200/30")
}

// BenchmarkWakePath is what a wake asks of the network: an Apply that changes
// nothing and a TAP, on a host with 500 instances.
func BenchmarkWakePath(b *testing.B) {
	ns := newNamespace(b)
	n := open(b, ns, linuxnet.Options{})
	var cfg network.Config
	for id := range 20 {
		var offsets []int
		for o := range 25 {
			offsets = append(offsets, 3+o)
		}
		cfg.Tenants = append(cfg.Tenants, networktest.Tenant(fmt.Sprintf("t%d", id), id, offsets...))
	}
	apply(b, n, cfg)
	for b.Loop() {
		apply(b, n, cfg)
		f, err := n.OpenTAP(context.Background(), "t7", cfg.Tenants[7].Instances[7].ID, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = f.Close()
		b.StartTimer()
	}
}
