package networktest

import (
	"net/netip"
	"testing"
	"time"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
)

// namesOpen is the contract of networks that have names: who may ask for what.
func namesOpen(t *testing.T, s Subject) {
	names, ok := s.Network.(network.Names)
	if !ok {
		return // it has none
	}
	cfg := Config(Tenant("acme", 3, 2, 3), Tenant("zeta", 4, 2))
	cfg.Tenants[0].Closed, cfg.Tenants[0].Resolver, cfg.Tenants[0].Instances[0].Egress = true, true, 1
	cfg.Tenants[0].Egress = [][]egress.Destination{{{Name: "api.example.com"}}}
	named, plain, open := cfg.Tenants[0].Instances[0].ID, cfg.Tenants[0].Instances[1].ID, cfg.Tenants[1].Instances[0].ID
	apply(t, s, cfg)
	web := []network.Admission{{Address: netip.MustParseAddr("93.184.215.14"), For: time.Minute}}
	for range 2 { // the second lengthens the time of the first
		if err := names.Admit(ctx(t), "acme", named, web); err != nil {
			t.Errorf("admit: %v", err)
		}
		web[0].For = time.Hour
	}
	wantNoErrors(t, s)
	wantKind(t, names.Admit(ctx(t), "acme", plain, web), mvm.KindState)
	wantKind(t, names.Admit(ctx(t), "zeta", open, web), mvm.KindState)
	wantKind(t, names.Admit(ctx(t), "zeta", named, web), mvm.KindNotFound)
	for what, a := range map[string]network.Admission{
		"IPv6": {Address: netip.MustParseAddr("2606:4700::1"), For: time.Minute}, "no address": {For: time.Minute},
		"no time": {Address: web[0].Address}, "too long": {Address: web[0].Address, For: network.MaxAdmission + 1},
	} {
		if err := names.Admit(ctx(t), "acme", named, []network.Admission{a}); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	wantKind(t, names.Admit(ctx(t), "acme", named, make([]network.Admission, network.MaxAdmissions+1)), mvm.KindInvalid)

	for _, tenant := range []string{"zeta", "nobody"} {
		udp, tcp, err := names.OpenResolver(ctx(t), tenant)
		wantKind(t, err, mvm.KindNotFound)
		if udp != nil || tcp != nil {
			t.Errorf("%s: sockets of a tenant that is not closed", tenant)
		}
	}
	udp, tcp, err := names.OpenResolver(ctx(t), "acme")
	if err != nil {
		t.Fatalf("open resolver: %v", err)
	}
	_, _ = udp.Close(), tcp.Close()
	apply(t, s, cfg)
	wantNoErrors(t, s)
}

// namesBounded: the guests of one tenant together have no more addresses open than it may have, and
// another tenant's guests have theirs all the same.
func namesBounded(t *testing.T, s Subject) {
	names, ok := s.Network.(network.Names)
	if !ok {
		return // it has none
	}
	const full = network.MaxTenantAdmissions / network.MaxAdmissions
	var offsets []int
	for n := range full + 1 {
		offsets = append(offsets, 2+n)
	}
	cfg := Config(Tenant("acme", 3, offsets...), Tenant("zeta", 4, 2))
	for n := range cfg.Tenants {
		of := &cfg.Tenants[n]
		of.Closed, of.Resolver, of.Egress = true, true, [][]egress.Destination{{{Name: "api.example.com"}}}
		for k := range of.Instances {
			of.Instances[k].Egress = 1
		}
	}
	apply(t, s, cfg)
	list := make([]network.Admission, network.MaxAdmissions)
	for n := range list {
		list[n] = network.Admission{Address: netip.AddrFrom4([4]byte{93, 184, byte(n >> 8), byte(n)}), For: time.Hour}
	}
	guests := cfg.Tenants[0].Instances
	for _, g := range guests[:full] {
		if err := names.Admit(ctx(t), "acme", g.ID, list); err != nil {
			t.Fatalf("admit: %v", err)
		}
	}
	wantKind(t, names.Admit(ctx(t), "acme", guests[full].ID, list[:1]), mvm.KindQuota)
	if err := names.Admit(ctx(t), "acme", guests[0].ID, list); err != nil {
		t.Errorf("what is open already: %v", err)
	}
	if err := names.Admit(ctx(t), "zeta", cfg.Tenants[1].Instances[0].ID, list); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	wantNoErrors(t, s)
}
