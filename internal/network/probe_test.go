package network_test

import (
	"net/netip"
	"slices"
	"testing"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/network/networktest"
)

func probeConfig(tenants, instances int) network.Config {
	var cfg network.Config
	for id := range tenants {
		var offsets []int
		for o := range instances {
			offsets = append(offsets, mvm.FirstInstanceOffset+o)
		}
		t := networktest.Tenant("t"+string(rune('a'+id)), id, offsets...)
		t.HostPorts = []int{9000 + id}
		cfg.Tenants = append(cfg.Tenants, t)
	}
	return cfg
}

func TestProbesCoverEveryWay(t *testing.T) {
	cfg := probeConfig(2, 2)
	host := netip.MustParseAddr("192.0.2.1")
	probes := network.Probes(cfg, network.ProbeHost{Addrs: []netip.Addr{host}, Port: 7778})
	from := cfg.Tenants[0].Instances[0].ID
	for _, want := range []struct {
		kind, target string
		reach        bool
	}{
		{"icmp", "10.240.0.4", true}, // the neighbour
		{"arp", "10.240.0.1", true},  // the own gateway
		{"tcp", "10.240.0.1:7778", false},
		{"tcp", "192.0.2.1:7778", false},
		{"icmp", "192.0.2.1", false},
		{"arp", "192.0.2.1", false},
		{"tcp", "169.254.169.254:80", false},
		{"icmp", "10.240.1.1", false},
		{"arp", "10.240.1.1", false},
		{"tcp", "10.240.1.1:9001", false},
		{"tcp", "10.240.0.1:9001", false}, // the other's port on the own gateway
		{"icmp", "10.240.1.3", false},
		{"arp", "10.240.1.3", false},
		{"spoof-ip", "10.240.0.4", false},
		{"spoof-mac", "10.240.0.4", false},
		{"ipv6", "fe80::fc:ff:fe00:4", false},
	} {
		if !slices.ContainsFunc(probes, func(p network.Probe) bool {
			return p.Instance == from && p.Kind == want.kind && p.Target == want.target && p.Reach == want.reach
		}) {
			t.Errorf("no probe %s to %s with reach %v", want.kind, want.target, want.reach)
		}
	}
}

// TestProbesOfInstancesKeptApart: what must answer is an instance that may be reached, and
// one that may not is tried.
func TestProbesOfInstancesKeptApart(t *testing.T) {
	cfg := probeConfig(1, 4) // a gateway, two users' instances and a worker
	all := cfg.Tenants[0].Instances
	all[0].Gateway, all[1].Alone, all[2].Alone = true, true, true
	addr := func(n int) string { a, _ := mvm.SubnetAddr(cfg.Tenants[0].Subnet, all[n].Offset); return a.String() }
	probes := network.Probes(cfg, network.ProbeHost{})
	for _, want := range []struct {
		from, to int
		reach    bool
	}{{0, 1, true}, {1, 0, true}, {1, 2, false}, {2, 1, false}, {3, 0, true}, {3, 1, false}} {
		if !slices.ContainsFunc(probes, func(p network.Probe) bool {
			return p.Instance == all[want.from].ID && p.Kind == "icmp" && p.Target == addr(want.to) && p.Reach == want.reach && p.Peer == all[want.to].ID
		}) {
			t.Errorf("no probe from %d to %d with reach %t", want.from, want.to, want.reach)
		}
	}
	for _, p := range probes {
		if p.Reach && p.Kind == "icmp" && p.Instance != all[0].ID && p.Target != addr(0) {
			t.Errorf("%+v must reach what is kept apart", p)
		}
	}
}

func TestProbesAreBoundedAndUndone(t *testing.T) {
	probes := network.Probes(probeConfig(20, 10), network.ProbeHost{Port: 1})
	if got, most := len(probes), 20*10*80; got > most {
		t.Errorf("probes: got %d, want at most %d", got, most)
	}
	for _, p := range probes {
		if len(p.Prepare) != len(p.Restore) {
			t.Errorf("%+v does not restore what it prepares", p)
		}
		if !slices.Contains([]string{"ping", "nc", "arping"}, p.Argv[0]) {
			t.Errorf("%+v needs a tool that a guest may not have", p)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		reach bool
		exit  int
		want  string
	}{{true, 0, ""}, {true, 1, "error"}, {false, 0, "error"}, {false, 1, ""}, {false, 127, "warning"}, {true, -1, "warning"}} {
		f, fault := network.Probe{Reach: c.reach, What: "x", Argv: []string{"ping"}}.Judge(c.exit)
		if f.Severity != c.want || fault != (c.want != "") || fault && (f.Fix == "" || f.What == "") {
			t.Errorf("judge reach %v, exit %d: got %+v, %v, want %q", c.reach, c.exit, f, fault, c.want)
		}
	}
}
