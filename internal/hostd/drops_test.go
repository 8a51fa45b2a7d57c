package hostd_test

import (
	"os"
	"testing"

	"mvm"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/networktest"
	"mvm/internal/testenv"
)

// uncounted are networks that count nothing.
type uncounted struct{ network.Network }

// TestDroppedFrames: the counts of an instance cross the socket, of no other's instance, also
// after the server was restarted; where nothing is counted, that is said.
func TestDroppedFrames(t *testing.T) {
	testenv.NeedRoot(t)
	cfg := networktest.Config(networktest.Tenant("acme", 3, 3), networktest.Tenant("zeta", 4, 3))
	id, foreign := cfg.Tenants[0].Instances[0].ID, cfg.Tenants[1].Instances[0].ID
	want := network.Drops{Sent: 7, Received: 1 << 60}
	serve := func(n network.Network) (*hostd.Client, string) {
		return hostdtest.Serve(t, hostd.Options{Network: n})
	}
	counting := func() *fakenet.Network {
		n := fakenet.New()
		t.Cleanup(func() { _ = n.Close() })
		n.Drop(id, want)
		n.Drop(foreign, network.Drops{Sent: 1})
		return n
	}
	c, socket := serve(counting())
	n := c.Network()
	if _, err := n.Dropped(t.Context(), "acme", id); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("before a config: %v", err)
	}
	must(t, n.Apply(t.Context(), cfg))
	asked := func(when string) {
		t.Helper()
		if got, err := n.Dropped(t.Context(), "acme", id); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", when, got, err, want)
		}
	}
	asked("as it is")
	for _, other := range [][2]string{{"acme", foreign}, {"zeta", id}, {"nobody", id}, {"", ""}, {"../acme", id}} {
		if got, err := n.Dropped(t.Context(), other[0], other[1]); !mvm.IsKind(err, mvm.KindNotFound) || got != (network.Drops{}) {
			t.Errorf("instance %q of tenant %q: %+v, %v; want that it is not there", other[1], other[0], got, err)
		}
	}
	restart := func(next network.Network) {
		t.Helper()
		must(t, os.Remove(socket))
		_, at := serve(next)
		must(t, os.Symlink(at, socket))
	}
	restart(counting())
	asked("of a server that was restarted")
	restart(uncounted{counting()})
	if _, err := n.Dropped(t.Context(), "acme", id); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("where nothing is counted: %v", err)
	}
	must(t, n.Close())
	if _, err := n.Dropped(t.Context(), "acme", id); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("after Close: %v", err)
	}
}
