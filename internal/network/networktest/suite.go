// Package networktest is the suite that every network.Network passes.
package networktest

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"mvm"
	"mvm/internal/network"
)

// Subject is a Network under test on a host of its own.
type Subject struct {
	Network network.Network
	// State describes everything that the Network has made, so that a change shows.
	State func() string
	// Links returns the names of the bridges and TAPs that exist, sorted.
	Links func() []string
	// Occupy gives the host itself an address in the range, or a route to it.
	Occupy func(p netip.Prefix, route bool)
}

// Run runs the suite; open makes a fresh Subject on an empty host and cleans up with t.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"apply makes bridges", applyMakesBridges},
		{"apply twice changes nothing", applyTwice},
		{"apply refuses bad configs", applyRefuses},
		{"apply takes tenants away", applyTakesAway},
		{"the caller's config stays its own", applyCopies},
		{"a TAP lives as long as its file", tapLives},
		{"a TAP is held once", tapOnce},
		{"a TAP needs its instance in the config", tapNeedsInstance},
		{"sweep needs a config", sweepNeedsConfig},
		{"sweep keeps what is owned", sweepKeeps},
		{"sweep removes what is not owned", sweepRemoves},
		{"verify finds what is not owned", verifyFinds},
		{"the host's own networks are told", occupied},
		{"names open addresses", namesOpen},
		{"names are bounded for each tenant", namesBounded},
		{"many at once", manyAtOnce},
		{"a cancelled context changes nothing", cancelled},
		{"close", closes},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// Tenant makes a tenant with the default subnet and instances at the offsets.
func Tenant(id string, netID int, offsets ...int) network.Tenant {
	t := network.Tenant{ID: id, NetID: netID, Subnet: mvm.DefaultSubnet(netID)}
	for _, o := range offsets {
		t.Instances = append(t.Instances, network.Instance{ID: instanceID(netID, o), Offset: o})
	}
	return t
}

func instanceID(netID, offset int) string {
	s := strconv.FormatInt(int64(netID)<<16|int64(offset), 16)
	return "i-" + "00000000"[len(s):] + s
}

// Config makes a Config of the tenants.
func Config(tenants ...network.Tenant) network.Config { return network.Config{Tenants: tenants} }

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return c
}

func apply(t *testing.T, s Subject, cfg network.Config) {
	t.Helper()
	if err := s.Network.Apply(ctx(t), cfg); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func openTAP(t *testing.T, s Subject, tenant string, i network.Instance) *os.File {
	t.Helper()
	f, err := s.Network.OpenTAP(ctx(t), tenant, i.ID, os.Getuid())
	if err != nil {
		t.Fatalf("open TAP of %s: %v", i.ID, err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func wantLinks(t *testing.T, s Subject, want ...string) {
	t.Helper()
	slices.Sort(want)
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := s.Links()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("links: got %q, want %q", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func wantKind(t *testing.T, err error, kind mvm.Kind) {
	t.Helper()
	if !mvm.IsKind(err, kind) {
		t.Errorf("error: got %v (kind %q), want kind %q", err, mvm.KindOf(err), kind)
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
