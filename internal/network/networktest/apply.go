package networktest

import (
	"context"
	"testing"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
)

func applyMakesBridges(t *testing.T, s Subject) {
	apply(t, s, Config(Tenant("acme", 3, 2, 3), Tenant("zeta", 4095)))
	wantLinks(t, s, "br-tenant-3", "br-tenant-4095")
	wantNoErrors(t, s)
}

func wantNoErrors(t *testing.T, s Subject) {
	t.Helper()
	findings, err := s.Network.Verify(ctx(t))
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, f := range findings {
		if f.Severity == "error" {
			t.Errorf("verify: got %+v, want no error", f)
		}
	}
}

func applyTwice(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 2, 3, 4), Tenant("zeta", 7, 3))
	cfg.Tenants[0].HostPorts = []int{8080, 443}
	allowed, err := egress.ParseAll([]string{"10.0.0.0/8:443", "10.0.5.0/24", "192.168.1.1:53/udp", "*.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Tenants[0].Closed, cfg.Tenants[0].Resolver, cfg.Tenants[0].Egress = true, true, [][]egress.Destination{allowed}
	cfg.Tenants[0].Instances[0].Gateway, cfg.Tenants[0].Instances[1].Alone, cfg.Tenants[0].Instances[1].Egress = true, true, 1
	apply(t, s, cfg)
	wantNoErrors(t, s)
	before := s.State()
	apply(t, s, cfg)
	if after := s.State(); after != before {
		t.Errorf("second apply changed the state from\n%s\nto\n%s", before, after)
	}
}

func applyRefuses(t *testing.T, s Subject) {
	apply(t, s, Config(Tenant("acme", 3, 3)))
	before := s.State()
	with := func(change func(*network.Tenant)) network.Config {
		tenant := Tenant("zeta", 4, 3)
		change(&tenant)
		return Config(Tenant("acme", 3, 3), tenant)
	}
	for name, cfg := range map[string]network.Config{
		"open, with a resolver":  with(func(t *network.Tenant) { t.Resolver = true }),
		"a name with a port":     with(func(t *network.Tenant) { t.Egress = [][]egress.Destination{{{Name: "a.example", Port: 80}}} }),
		"a name that is none":    with(func(t *network.Tenant) { t.Egress = [][]egress.Destination{{{Name: "A..b"}}} }),
		"same id":                with(func(t *network.Tenant) { t.ID = "acme" }),
		"no id":                  with(func(t *network.Tenant) { t.ID = "" }),
		"same net id":            with(func(t *network.Tenant) { t.NetID = 3 }),
		"net id too high":        with(func(t *network.Tenant) { t.NetID = 4096 }),
		"net id below zero":      with(func(t *network.Tenant) { t.NetID = -1 }),
		"same subnet":            with(func(t *network.Tenant) { t.Subnet = prefix("10.240.3.0/24") }),
		"subnet overlaps":        with(func(t *network.Tenant) { t.Subnet = prefix("10.240.0.0/16") }),
		"subnet not valid":       with(func(t *network.Tenant) { t.Subnet = network.Tenant{}.Subnet }),
		"subnet not masked":      with(func(t *network.Tenant) { t.Subnet = prefix("10.240.4.1/24") }),
		"subnet is public":       with(func(t *network.Tenant) { t.Subnet = prefix("8.8.8.0/24") }),
		"offset of the gateway":  with(func(t *network.Tenant) { t.Instances[0].Offset = 1 }),
		"offset is broadcast":    with(func(t *network.Tenant) { t.Instances[0].Offset = 255 }),
		"offset twice":           with(func(t *network.Tenant) { t.Instances = append(t.Instances, network.Instance{ID: "i-2", Offset: 3}) }),
		"instance twice":         with(func(t *network.Tenant) { t.Instances = append(t.Instances, t.Instances[0]) }),
		"host port 0":            with(func(t *network.Tenant) { t.HostPorts = []int{0} }),
		"egress not in the list": with(func(t *network.Tenant) { t.Instances[0].Egress = 1 }),
		"egress below zero":      with(func(t *network.Tenant) { t.Instances[0].Egress = -1 }),
		"egress to nowhere":      with(func(t *network.Tenant) { t.Egress = [][]egress.Destination{{{}}} }),
		"egress to IPv6":         with(egressTo(egress.Destination{Prefix: prefix("fd00::/8")})),
		"egress to link-local":   with(egressTo(egress.Destination{Prefix: prefix("169.254.169.254/32")})),
		"egress not masked":      with(egressTo(egress.Destination{Prefix: prefix("10.0.5.1/24")})),
		"egress by sctp":         with(egressTo(egress.Destination{Prefix: prefix("10.0.5.0/24"), Protocol: "sctp"})),
		"egress port 65536":      with(egressTo(egress.Destination{Prefix: prefix("10.0.5.0/24"), Protocol: "tcp", Port: 65536})),
		"too much egress":        with(func(t *network.Tenant) { t.Egress = [][]egress.Destination{make([]egress.Destination, egress.Max+1)} }),
		"host port 65536":        with(func(t *network.Tenant) { t.HostPorts = []int{65536} }),
	} {
		wantKind(t, s.Network.Apply(ctx(t), cfg), mvm.KindInvalid)
		if after := s.State(); after != before {
			t.Errorf("%s: a refused config changed the state from\n%s\nto\n%s", name, before, after)
		}
	}
}

func egressTo(d egress.Destination) func(*network.Tenant) {
	return func(t *network.Tenant) { t.Egress = [][]egress.Destination{{d}} }
}

func applyTakesAway(t *testing.T, s Subject) {
	apply(t, s, Config(Tenant("acme", 3, 3), Tenant("zeta", 4, 3)))
	apply(t, s, Config(Tenant("zeta", 4, 3)))
	if _, err := s.Network.Sweep(ctx(t)); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	wantLinks(t, s, "br-tenant-4")
	apply(t, s, Config())
	if _, err := s.Network.Sweep(ctx(t)); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	wantLinks(t, s)
	wantNoErrors(t, s)
}

func applyCopies(t *testing.T, s Subject) {
	cfg := Config(Tenant("acme", 3, 3))
	id := cfg.Tenants[0].Instances[0].ID
	apply(t, s, cfg)
	cfg.Tenants[0].Instances[0].ID = "i-ffffffff"
	f, err := s.Network.OpenTAP(ctx(t), "acme", id, 0)
	if err != nil {
		t.Fatalf("open TAP after the caller changed its config: %v", err)
	}
	_ = f.Close()
}

func cancelled(t *testing.T, s Subject) {
	apply(t, s, Config(Tenant("acme", 3, 3)))
	before := s.State()
	c, cancel := context.WithCancel(context.Background())
	cancel()
	wantKind(t, s.Network.Apply(c, Config()), mvm.KindCanceled)
	_, err := s.Network.OpenTAP(c, "acme", instanceID(3, 3), 0)
	wantKind(t, err, mvm.KindCanceled)
	_, err = s.Network.Sweep(c)
	wantKind(t, err, mvm.KindCanceled)
	if after := s.State(); after != before {
		t.Errorf("a cancelled call changed the state from\n%s\nto\n%s", before, after)
	}
}
