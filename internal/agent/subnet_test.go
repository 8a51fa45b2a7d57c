package agent_test

import (
	"net/netip"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/network"
)

// A tenant's subnet takes nothing from the host's own networks and routes: one that is
// chosen is another, and one that was asked for is refused.
func TestSubnetsBesideTheHosts(t *testing.T) {
	h := newHost(t)
	on := func(p, what string) network.Range {
		return network.Range{Prefix: netip.MustParsePrefix(p), What: what}
	}
	h.net.SetOccupied(on("10.240.0.0/23", "the address 10.240.0.9/23 of interface eth0"), on("10.240.3.0/25", "the route to 10.240.3.0/25 on interface tun0"))
	a := h.start()
	defer h.stop()
	create := func(spec mvm.TenantSpec) (mvm.Tenant, error) { return a.CreateTenant(t.Context(), spec) }
	netID := func(n int) *int { return &n }
	for id, want := range map[string]struct {
		spec mvm.TenantSpec
		text string
	}{
		"net-id":  {mvm.TenantSpec{NetID: netID(1)}, "interface eth0"},
		"route":   {mvm.TenantSpec{NetID: netID(3)}, "route to 10.240.3.0/25"},
		"subnet":  {mvm.TenantSpec{Subnet: netip.MustParsePrefix("10.240.0.0/16")}, "interface eth0"},
		"within":  {mvm.TenantSpec{Subnet: netip.MustParsePrefix("10.240.3.16/28")}, "interface tun0"},
		"another": {mvm.TenantSpec{NetID: netID(9), Subnet: netip.MustParsePrefix("10.240.1.0/24")}, "eth0"},
	} {
		want.spec.ID = id
		if _, err := create(want.spec); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v, want that it is refused and names %q", id, err, want.text)
		}
	}
	for _, want := range []struct{ id, subnet, got string }{
		{"first", "", "10.240.2.0/24"},
		{"explicit", "10.240.5.0/24", "10.240.5.0/24"}, // with net_id 0, whose own subnet nobody has
		{"second", "", "10.240.4.0/24"},
		{"third", "", "10.240.6.0/24"}, // beside another tenant's
	} {
		spec := mvm.TenantSpec{ID: want.id}
		if want.subnet != "" {
			spec.Subnet = netip.MustParsePrefix(want.subnet)
		}
		if got, err := create(spec); err != nil || got.Subnet.String() != want.got {
			t.Errorf("tenant %s has %s, %v, want %s", want.id, got.Subnet, err, want.got)
		}
	}

	// What the host gets later is told, and nothing is taken down.
	h.net.SetOccupied(on("10.240.4.128/25", "the route to 10.240.4.128/25"))
	before := h.net.Links()
	found, err := a.Doctor(t.Context())
	told := false
	for _, f := range found {
		told = told || strings.Contains(f.What, "10.240.4.128/25") && f.Fix != ""
	}
	if err != nil || !told || len(h.net.Links()) != len(before) {
		t.Errorf("doctor says %+v, %v; interfaces %v, before %v", found, err, h.net.Links(), before)
	}
	h.net.SetOccupied(on("10.0.0.0/8", "the route to 10.0.0.0/8 via 192.0.2.1"))
	if _, err := create(mvm.TenantSpec{ID: "none"}); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "--subnet") || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("with nothing left to choose: %v", err)
	}
}
