package agent_test

import (
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// TestClaimedSpareIsToldItsKey: the spare runs already, so no boot or wake tells it whose
// it has become.
func TestClaimedSpareIsToldItsKey(t *testing.T) {
	h, gw, spare, _ := gatewayHost(t)
	key := func() string {
		g, ok := h.host.Guest(spare.ID)
		if !ok || g.Config == nil {
			t.Fatalf("the spare's guest has no configuration")
		}
		return g.Config.Key
	}
	if got := key(); got != "" {
		t.Fatalf("a spare was told the key %q", got)
	}
	if r := h.ask(gw.ID, acquireKey("ann")).AcquireResult; r == nil || !r.Success || r.Instances[0].InstanceID != spare.ID {
		t.Fatalf("acquire: %+v, want the spare", r)
	}
	if got := key(); got != "ann" { // before the gateway is told, so that no request comes sooner
		t.Errorf("its guest was told the key %q, want ann", got)
	}
}

// TestActivityIsTheTenantsOwnGateways: reports decide on what sleeps. Only a gateway's
// count, and only of its own tenant's instances, whatever ids it has heard of.
func TestActivityIsTheTenantsOwnGateways(t *testing.T) {
	h, gw, w, other := gatewayHost(t)
	open := func(id string) int {
		t.Helper()
		s, err := h.a.Stats(ctx(t), mvm.Address{Instance: id})
		if err != nil {
			t.Fatal(err)
		}
		return s.Connections
	}
	report := func(from, of string) guestproto.HostResponse {
		return h.ask(from, guestproto.HostRequest{ReportActivity: &guestproto.ReportActivity{
			Instances: []guestproto.Activity{{InstanceID: of, Connections: 3, Open: 3, LastActive: time.Now()}}}})
	}
	for _, of := range []string{w.ID, gw.ID} {
		if r := report(w.ID, of); r.ActivityAck || r.Error == nil {
			t.Errorf("a worker's report was taken: %+v", r)
		}
	}
	if r := report(gw.ID, other.ID); !r.ActivityAck {
		t.Errorf("a report of what is not known: %+v, want it taken and dropped", r)
	}
	for _, id := range []string{w.ID, other.ID, gw.ID} {
		if n := open(id); n != 0 {
			t.Errorf("%s has %d connections by the word of who may not say so", id, n)
		}
	}
	if r := report(gw.ID, w.ID); !r.ActivityAck || open(w.ID) != 3 {
		t.Errorf("the gateway's report on its worker: %+v, %d connections, want 3", r, open(w.ID))
	}
}
