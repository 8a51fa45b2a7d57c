package fakenet_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/networktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNetwork(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Subject {
		n := fakenet.New()
		t.Cleanup(func() { _ = n.Close() })
		var has []network.Range
		occupy := func(p netip.Prefix, _ bool) {
			has = append(has, network.Range{Prefix: p, What: "the test's " + p.String()})
			n.SetOccupied(has...)
		}
		return networktest.Subject{Network: n, State: n.State, Links: n.Links, Occupy: occupy}
	})
}

func TestFail(t *testing.T) {
	n := fakenet.New()
	defer n.Close()
	boom := errors.New("boom")
	cfg := networktest.Config(networktest.Tenant("acme", 3, 3))
	n.Fail(fakenet.OpApply, boom, 2)
	for i, want := range []error{boom, boom, nil} {
		if got := n.Apply(context.Background(), cfg); !errors.Is(got, want) {
			t.Errorf("apply %d: got %v, want %v", i, got, want)
		}
	}
	n.Fail(fakenet.OpVerify, boom, -1)
	for range 3 {
		if _, got := n.Verify(context.Background()); !errors.Is(got, boom) {
			t.Errorf("verify: got %v, want %v", got, boom)
		}
	}
	n.Fail(fakenet.OpVerify, nil, 0)
	if _, err := n.Verify(context.Background()); err != nil {
		t.Errorf("verify after the failures were taken back: %v", err)
	}
	if got := n.Calls(fakenet.OpApply); got != 3 {
		t.Errorf("calls of apply: got %d, want 3", got)
	}
}

func TestDelayEndsWithContext(t *testing.T) {
	n := fakenet.New()
	defer n.Close()
	n.Delay(fakenet.OpApply, time.Hour)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := n.Apply(ctx, network.Config{}); !mvm.IsKind(err, mvm.KindTimeout) {
		t.Errorf("apply: got %v, want kind timeout", err)
	}
}

func TestLeave(t *testing.T) {
	n := fakenet.New()
	defer n.Close()
	if err := n.Apply(context.Background(), network.Config{}); err != nil {
		t.Fatal(err)
	}
	n.Leave("br-tenant-9")
	n.Leave("tn9i3")
	got, err := n.Sweep(context.Background())
	if err != nil || len(got) != 2 || len(n.Links()) != 0 {
		t.Errorf("sweep: got %q, %v and links %q, want both removed", got, err, n.Links())
	}
}
