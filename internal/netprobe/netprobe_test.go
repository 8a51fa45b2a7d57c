package netprobe_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/netprobe"
	"mvm/internal/network"
)

// guests all have or lack the tools, and reach nobody.
type guests struct{ code int }

func (g guests) Running(context.Context) (network.Config, error) {
	return network.Config{Tenants: []network.Tenant{{ID: "acme", NetID: 1, Subnet: netip.MustParsePrefix("10.1.0.0/24"),
		Instances: []network.Instance{{ID: "i-00000001", Offset: 2, Gateway: true}, {ID: "i-00000002", Offset: 3}}}}}, nil
}

func (g guests) Exec(_ context.Context, _ string, argv []string) (int, error) {
	if strings.Join(argv, " ") == "ip link" {
		return g.code, nil
	}
	return 1, nil
}

// A guest without the tools is named, and with no other nothing is known, which is an error.
func TestGuestsWithoutTools(t *testing.T) {
	p := netprobe.Prober{Guests: guests{code: 127}, Log: slog.New(slog.DiscardHandler)}
	found, err := p.Live(t.Context(), nil)
	if err != nil || len(found) != 3 || found[2].Severity != "error" {
		t.Errorf("found %+v, %v; want two guests and an error", found, err)
	}
}

// What must be open and is not is found; what is told adds up.
func TestNothingIsReached(t *testing.T) {
	p := netprobe.Prober{Guests: guests{}, Log: slog.New(slog.DiscardHandler)}
	told := 0
	found, err := p.Live(t.Context(), func(mvm.Progress) { told++ })
	if err != nil || len(found) == 0 || told == 0 || told%2 != 0 {
		t.Errorf("found %d, told %d times, %v", len(found), told, err)
	}
	for _, f := range found {
		if f.Where == "" || f.What == "" {
			t.Errorf("a finding says nothing: %+v", f)
		}
	}
}
