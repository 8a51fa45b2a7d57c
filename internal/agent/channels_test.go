package agent_test

import (
	"slices"
	"testing"

	"mvm"
	"mvm/internal/guestproto"
)

// chatHost has tenant acme with a gateway that has a channel for the key alice, a worker
// that runs, and one in another pool.
func chatHost(t *testing.T) (h *host, gw, w, other mvm.Instance) {
	h = newHost(t)
	h.start()
	w = h.instance()
	other = h.pool("acme", worker("other"))
	gateways := worker("gateways")
	gateways.Role = mvm.RoleGateway
	gateways.Channels = []mvm.Channel{{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: []string{"7"},
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:alice"}, TargetPort: 80, Path: "/hook"}}}
	return h, h.pool("acme", gateways), w, other
}

// TestChannelWakesItsKey: a gateway without any route has the instance awake to which its
// channel leads, in the channel's name, and nothing else.
func TestChannelWakesItsKey(t *testing.T) {
	h, gw, w, other := chatHost(t)
	acquire := func(pool, key, channel string) *guestproto.AcquireResult {
		t.Helper()
		r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: pool, Key: key, Channel: channel}})
		if r.AcquireResult == nil {
			t.Fatalf("acquire %s@%s: %+v", pool, key, r)
		}
		return r.AcquireResult
	}
	if r := acquire("workers", "alice", "bot"); !r.Success || r.Instances[0].InstanceID != w.ID {
		t.Fatalf("acquire: %+v", r)
	}
	h.do(w.ID, mvm.OpSleep)
	if r := acquire("workers", "alice", "bot"); !r.Success {
		t.Fatalf("acquire of a sleeper: %+v", r)
	}
	if got := h.get(w.ID); got.State != mvm.StateRunning || got.Last.By != mvm.ParseAsker("channel:bot") {
		t.Errorf("the worker is %s by %q, want running by channel:bot", got.State, got.Last.By)
	}
	for _, c := range [][3]string{{"workers", "bob", "bot"}, {"workers", "alice", ""}, {"workers", "alice", "nope"}, {"workers", "", "bot"}, {"other", "alice", "bot"}} {
		if r := acquire(c[0], c[1], c[2]); r.Success || r.RetrySecs != 0 {
			t.Errorf("acquire %q: %+v", c, r)
		}
	}
	for what, req := range map[string]guestproto.HostRequest{"sync": {SyncInstance: syncOf(w, h.get(w.ID).DiskGeneration)}, "preflight": {Preflight: name(w)}} {
		if r := h.ask(gw.ID, req); r.Error != nil || r.SyncAck != nil && !r.SyncAck.Success || r.PreflightAck != nil && !r.PreflightAck.Safe {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if r := h.ask(gw.ID, guestproto.HostRequest{SyncInstance: syncOf(w, h.get(w.ID).DiskGeneration-1)}); r.SyncAck == nil || r.SyncAck.Success {
		t.Errorf("sync of an earlier boot: %+v", r)
	}
	for _, req := range []guestproto.HostRequest{{SyncInstance: syncOf(other, other.DiskGeneration)}, {Preflight: name(other)}, {ReportMessages: &guestproto.ReportMessages{Channel: "nope"}}} {
		if r := h.ask(gw.ID, req); r.Error == nil {
			t.Errorf("not refused: %+v", r)
		}
		if r := h.ask(w.ID, req); r.Error == nil {
			t.Errorf("not refused to a worker: %+v", r)
		}
	}
}

func syncOf(i mvm.Instance, boot int) *guestproto.SyncInstance {
	return &guestproto.SyncInstance{InstanceName: *name(i), Boot: boot}
}

// TestMessagesAreRecordedWithinLimits: what became of messages is in the audit log, in the
// channel's name; a flood of them does not crowd out the rest.
func TestMessagesAreRecordedWithinLimits(t *testing.T) {
	h, gw, w, _ := chatHost(t)
	for n := range 10 {
		events := []guestproto.MessageEvent{{What: guestproto.MessageAccepted, ID: int64(n), Chat: "c0ffee", InstanceID: w.ID}, {What: "invented"}}
		for range guestproto.MaxMessages {
			events = append(events, guestproto.MessageEvent{What: guestproto.MessageRefused, ID: int64(n), Detail: "not allowed"})
		}
		if r := h.ask(gw.ID, guestproto.HostRequest{ReportMessages: &guestproto.ReportMessages{Channel: "bot", Messages: events}}); !r.MessagesAck {
			t.Fatalf("report: %+v", r)
		}
	}
	got := h.actions("acme")
	if a, r := count(got, mvm.MessageAccepted), count(got, mvm.MessageRefused); a != 10 || r < 10 || r > 100 {
		t.Errorf("%d accepted and %d refused are recorded", a, r)
	}
	if a, r, none := h.metrics.of("messages telegram accepted"), h.metrics.of("messages telegram refused"), h.metrics.of("messages telegram invented"); a != 10 || r < 600 || none != 0 {
		t.Errorf("%d accepted and %d refused are counted, %d invented", a, r, none)
	}
	if !slices.Contains(got, mvm.ChannelUpdated) {
		t.Error("that the channel was added is not recorded")
	}
}
