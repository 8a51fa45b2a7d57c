package networktest

import (
	"net/netip"
	"slices"
	"testing"

	"mvm"
	"mvm/internal/network"
)

// occupied: what the host has itself is told, also when it came after the tenants, and
// takes nothing down.
func occupied(t *testing.T, s Subject) {
	overlaps := func(p netip.Prefix) bool {
		t.Helper()
		ranges, err := s.Network.Occupied(ctx(t))
		if err != nil {
			t.Fatalf("occupied: %v", err)
		}
		r, found := network.Overlapping(ranges, p)
		if found && r.What == "" {
			t.Errorf("occupied: %s without what it is", r.Prefix)
		}
		return found
	}
	if overlaps(mvm.ClusterCIDR) {
		t.Fatal("an empty host has something in the cluster's range")
	}
	cfg := Config(Tenant("acme", 3, 3))
	apply(t, s, cfg)
	openTAP(t, s, "acme", cfg.Tenants[0].Instances[0])
	if overlaps(mvm.ClusterCIDR) {
		t.Error("a tenant's own network counts as the host's")
	}
	wantNoErrors(t, s)
	s.Occupy(prefix("10.240.7.0/24"), false)
	s.Occupy(prefix("10.240.8.0/22"), true)
	for p, want := range map[string]bool{"10.240.7.0/24": true, "10.240.0.0/16": true, "10.240.7.16/28": true, "10.240.10.0/24": true,
		"10.240.3.0/24": false, "10.240.12.0/24": false} {
		if got := overlaps(prefix(p)); got != want {
			t.Errorf("occupied overlaps %s: %v, want %v", p, got, want)
		}
	}
	wantNoErrors(t, s)
	before := s.Links()
	s.Occupy(prefix("10.240.3.128/25"), true)
	findings, err := s.Network.Verify(ctx(t))
	if err != nil || !slices.ContainsFunc(findings, func(f network.Finding) bool { return f.Where == "br-tenant-3" && f.Fix != "" }) {
		t.Errorf("verify: got %+v, %v, want what overlaps the tenant's subnet", findings, err)
	}
	apply(t, s, cfg)
	apply(t, s, Config(append(slices.Clone(cfg.Tenants), Tenant("zeta", 4))...))
	if after := s.Links(); !slices.Equal(after, append([]string{"br-tenant-3", "br-tenant-4"}, before[1:]...)) {
		t.Errorf("links: got %q after %q", after, before)
	}
}
