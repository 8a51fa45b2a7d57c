package health_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
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
}

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
	h := &house{Store: st}
	return h, health.New(health.Options{Guests: h, Idle: h, Reconcile: h, Store: st, Log: slog.New(slog.DiscardHandler), Call: time.Second})
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
