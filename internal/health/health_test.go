package health_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/health"
	"mvm/internal/store"
)

// house is a host of one guest.
type house struct {
	*store.Store
	answer guestproto.Status
	asked  int
	poked  []string
	waits  map[string]int // by pool
}

func (h *house) Backlog(tenant, pool string, messages int) { h.waits[tenant+"/"+pool] = messages }

func (h *house) Ask(context.Context, string, guestproto.Request) (guestproto.Response, error) {
	h.asked++
	return guestproto.Response{Status: &h.answer}, nil
}

func (h *house) Question(ctx context.Context, ask func(context.Context) error) error { return ask(ctx) }
func (h *house) Poke(tenant string)                                                  { h.poked = append(h.poked, tenant) }

func newHouse(t *testing.T) (*house, *health.Table) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	h := &house{Store: st, waits: map[string]int{}}
	return h, health.New(health.Options{Guests: h, Idle: h, Reconcile: h, Store: st, Log: slog.New(slog.DiscardHandler), Metrics: h, Call: time.Second})
}

func status(version uint64, ready bool, state string) guestproto.Status {
	return guestproto.Status{Version: version, Ready: ready, Services: []guestproto.ServiceStatus{{Name: "web", State: state}}}
}

// TestOlderWordDoesNotCount: of what a guest said of one boot, the newest counts, in whatever
// order it came; of another boot nothing does.
func TestOlderWordDoesNotCount(t *testing.T) {
	_, table := newHouse(t)
	i := mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "agents", State: mvm.StateRunning, Ready: true, DiskGeneration: 2}
	table.Reported(i, status(5, false, "failed"))
	table.Reported(i, status(4, true, "ready"))
	if s := table.GaveUp(i); s == nil || s.Name != "web" {
		t.Errorf("an older word counts: %+v", table.Of(i))
	}
	next := i
	next.DiskGeneration++
	if h := table.Of(next); h != nil {
		t.Errorf("the next boot is told as the one before: %+v", h)
	}
	table.Forget(i.ID)
	if h := table.Of(i); h != nil {
		t.Errorf("known after it is gone: %+v", h)
	}
}

// TestLateReadyIsRecorded: services that are ready after a wait for them failed have that on
// record, and their tenant gets another look.
func TestLateReadyIsRecorded(t *testing.T) {
	h, table := newHouse(t)
	i := mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "agents", State: mvm.StateRunning, Problem: "services were not ready", Changed: time.Now().UTC()}
	err := h.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID("acme", 1, time.Now()), tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1, Subnet: mvm.DefaultSubnet(1)}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}), tx.PutInstance(i))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.answer = status(1, true, "ready")
	table.Look(t.Context(), i)
	err = h.View(func(tx *store.Tx) error {
		i, err = tx.Instance(i.ID)
		return err
	})
	if err != nil || !i.Ready || i.Problem != "" || len(h.poked) != 1 {
		t.Errorf("record %+v, tenants looked at %v, %v", i, h.poked, err)
	}
	table.Look(t.Context(), i)
	if h.asked != 1 {
		t.Errorf("a guest of which all is known was asked %d times", h.asked)
	}
}

// TestBacklog: messages that wait for long are told, by pool, until none does or their gateway
// is gone; what waits for a moment is not.
func TestBacklog(t *testing.T) {
	h, table := newHouse(t)
	i := mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "gateways", Role: mvm.RoleGateway, State: mvm.StateRunning, Ready: true}
	other := i
	other.ID = "i-00000002"
	version := uint64(0)
	said := func(i mvm.Instance, n int, age time.Duration) {
		version++
		at := time.Now().Add(-age)
		table.Reported(i, guestproto.Status{Version: version, Ready: true, Channels: []guestproto.ChannelStatus{{Name: "bot", Kind: "telegram", State: "ready", Waiting: n, Oldest: &at}}})
	}
	said(i, 3, time.Second)
	if trouble := table.Of(i).ChannelTroubles(); trouble != "" || len(h.waits) != 0 {
		t.Errorf("what waits for a second is told: %q, %v", trouble, h.waits)
	}
	said(i, 3, 2*time.Minute)
	said(other, 2_000_000_000, 2*time.Minute)
	if trouble := table.Of(i).ChannelTroubles(); !strings.HasPrefix(trouble, "channel bot: 3 messages wait, the oldest since 20") || h.waits["acme/gateways"] != 1_000_003 {
		t.Errorf("told: %q, %v", trouble, h.waits)
	}
	said(other, -1, time.Hour)
	if got := h.waits["acme/gateways"]; got != 3 {
		t.Errorf("%d wait, want 3", got)
	}
	table.Forget(i.ID)
	if got := h.waits["acme/gateways"]; got != 0 {
		t.Errorf("%d wait at a gateway that is gone", got)
	}
}

// TestBacklogOfWorker: what waits for a worker is told of it, from all gateways of its tenant
// and in whatever state it is, and of nobody else; only a gateway's word counts.
func TestBacklogOfWorker(t *testing.T) {
	_, table := newHouse(t)
	old := time.Now().Add(-2 * time.Minute).Truncate(time.Second)
	older, fresh := old.Add(-time.Minute), time.Now()
	gw := mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "gateways", Role: mvm.RoleGateway, State: mvm.StateRunning, Ready: true}
	said := func(from mvm.Instance, version uint64, channel string, all ...guestproto.WorkerBacklog) {
		table.Reported(from, guestproto.Status{Version: version, Ready: true, Channels: []guestproto.ChannelStatus{
			{Name: channel, Kind: "telegram", State: "ready", Waiting: 9, Oldest: &older, PoolID: "workers", Backlogs: all}}})
	}
	second, foreign, liar := gw, gw, gw
	second.ID, foreign.ID, liar.ID = "i-00000002", "i-00000003", "i-00000004"
	foreign.Tenant, liar.Role = "other", mvm.RoleWorker
	said(gw, 1, "bot", guestproto.WorkerBacklog{Key: "ann", Waiting: 3, Oldest: old}, guestproto.WorkerBacklog{Key: "bob", Waiting: 1, Oldest: fresh},
		guestproto.WorkerBacklog{Key: "eve", Waiting: -1, Oldest: old}, guestproto.WorkerBacklog{Waiting: 2, Oldest: old})
	said(second, 1, "hook", guestproto.WorkerBacklog{Key: "ann", Waiting: 1, Oldest: older})
	said(foreign, 1, "bot", guestproto.WorkerBacklog{Key: "ann", Waiting: 50, Oldest: older})
	said(liar, 1, "bot", guestproto.WorkerBacklog{Key: "ann", Waiting: 60, Oldest: older})
	want := func(pool, key string, want *mvm.Backlog) {
		t.Helper()
		if got := table.Backlog(mvm.Instance{Tenant: "acme", Pool: pool, Key: key, State: mvm.StateSleeping}); !reflect.DeepEqual(got, want) {
			t.Errorf("for %s@%s wait %+v, want %+v", pool, key, got, want)
		}
	}
	want("workers", "ann", &mvm.Backlog{Waiting: 4, Oldest: older, Channels: []string{"bot", "hook"}})
	want("workers", "", &mvm.Backlog{Waiting: 2, Oldest: old, Channels: []string{"bot"}})
	want("workers", "bob", nil)
	want("workers", "eve", nil)
	want("others", "ann", nil)
	if h := table.Of(liar); h == nil || len(h.Channels) > 0 {
		t.Errorf("a worker has channels: %+v", h)
	}
	said(second, 2, "hook")
	want("workers", "ann", &mvm.Backlog{Waiting: 3, Oldest: old, Channels: []string{"bot"}})
	table.Forget(gw.ID)
	want("workers", "ann", nil)
}
