package declare_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/declare"
	"mvm/internal/desired"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// house is a host of the tenants in its store, which nobody reconciles.
type house struct {
	store   *store.Store
	events  []mvm.Event
	changed []string // what Records was asked for
	paused  int
	settled []string
}

func (h *house) Tenants(context.Context) (out []mvm.Tenant, err error) {
	err = h.store.View(func(tx *store.Tx) error {
		out, err = tx.Tenants()
		return err
	})
	return out, err
}

func (h *house) Tenant(_ context.Context, id string) (t mvm.Tenant, u mvm.Usage, err error) {
	err = h.store.View(func(tx *store.Tx) error {
		t, err = tx.Tenant(id)
		return err
	})
	return t, u, err
}

func (h *house) CreateTenant(_ context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	if h.paused == 0 {
		return mvm.Tenant{}, errors.New("records change while passes may be made")
	}
	h.changed = append(h.changed, "create "+spec.ID)
	t := mvm.Tenant{ID: spec.ID, NetID: 1, Quota: mvm.DefaultQuota()}
	return t, h.store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID(spec.ID, 1, time.Now()), tx.PutTenant(t))
	})
}

func (h *house) UpdateTenant(context.Context, string, mvm.TenantUpdate) (mvm.Tenant, error) {
	return mvm.Tenant{}, nil
}

func (h *house) DestroyTenant(_ context.Context, id string, _ func(mvm.Progress)) error {
	h.changed = append(h.changed, "destroy "+id)
	return nil
}

func (h *house) TryTenants(context.Context, []mvm.TenantSpec, []string) (map[string]error, error) {
	return nil, nil
}

func (h *house) Secrets(string) (map[string][]byte, error)         { return nil, nil }
func (h *house) SecretsHash(mvm.Tenant, []byte) (string, error)    { return "", nil }
func (h *house) TakeOver(context.Context, mvm.Address) error       { return nil }
func (h *house) Owed(context.Context, []string)                    {}
func (h *house) Changed(string, string)                            {}
func (h *house) Backoff(int) time.Duration                         { return time.Hour }
func (h *house) Problems(context.Context, string) ([]error, error) { return nil, nil }
func (h *house) Observe(tenant string) (o plan.Observed, err error) {
	o = plan.Observed{Now: time.Now(), Takes: func(string) error { return nil }}
	err = h.store.View(func(tx *store.Tx) error {
		t, err := tx.Tenant(tenant)
		if mvm.IsKind(err, mvm.KindNotFound) {
			return nil
		}
		o.Tenant = &t
		return err
	})
	return o, err
}

func (h *house) ReplaceSecrets(context.Context, string, map[string][]byte) error { return nil }
func (h *house) CreatePool(context.Context, string, mvm.PoolSpec) error          { return nil }
func (h *house) UpdatePoolLater(context.Context, mvm.Address, mvm.PoolSpec, mvm.PoolSpec) error {
	return nil
}
func (h *house) DestroyPool(context.Context, string, string, func(mvm.Progress)) error { return nil }
func (h *house) StopAll(context.Context, mvm.Address, func(mvm.Progress)) error        { return nil }

func (h *house) Pause(string) func() {
	h.paused++
	return func() { h.paused-- }
}

func (h *house) Converge(_ context.Context, tenant string, _ func(mvm.Progress)) ([]mvm.PlanStep, error) {
	h.settled = append(h.settled, tenant)
	return nil, nil
}

func (h *house) Append(_ context.Context, _ *store.Tx, e mvm.Event) error {
	h.events = append(h.events, e)
	return nil
}

func newHouse(t *testing.T, file string, log *bytes.Buffer) (*house, *declare.Declarer) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	h := &house{store: st}
	return h, declare.New(declare.Options{Records: h, Reconcile: h, Deliver: h, Store: st, Journal: h, Log: slog.New(slog.NewTextHandler(log, nil)),
		NodeID: func() (string, error) { return "node-1", nil }, File: file, Seam: func(string, string) error { return nil }})
}

// A deployment goes on record between two passes, and is waited for.
func TestApply(t *testing.T) {
	h, d := newHouse(t, "", &bytes.Buffer{})
	steps, err := d.Apply(t.Context(), mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme"}}, mvm.ApplyOptions{}, nil)
	if err != nil || len(steps) != 1 || strings.Join(h.changed, " ") != "create acme" || strings.Join(h.settled, " ") != "acme" || h.paused != 0 {
		t.Errorf("steps %+v, %v; changed %v, settled %v, paused %d", steps, err, h.changed, h.settled, h.paused)
	}
	if len(h.events) != 1 || h.events[0].Action != mvm.DeploymentApplied {
		t.Errorf("on record: %+v", h.events)
	}
	if _, err := d.Apply(t.Context(), mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme"}}, mvm.ApplyOptions{NoWait: true}, nil); err != nil || len(h.changed) != 1 || len(h.settled) != 1 {
		t.Errorf("the same once more: %v, changed %v, settled %v", err, h.changed, h.settled)
	}
}

// The host is held to the file's state as long as nobody forgets it. A file that is broken
// changes nothing, and is told of once.
func TestFollowAndHold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "desired.json")
	var log bytes.Buffer
	h, d := newHouse(t, file, &log)
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil { // another inode: it has changed
			t.Fatal(err)
		}
	}
	state, err := desired.FromState("node-1", []mvm.Tenant{{ID: "acme", NetID: 1, Quota: mvm.DefaultQuota()}}, nil, func(string) string { return "" }).Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(state)
	d.Follow(t.Context())
	held, err := d.Held()
	if err != nil || held == nil || strings.Join(h.changed, " ") != "create acme" {
		t.Fatalf("held to %+v, %v; changed %v; log %s", held, err, h.changed, log.String())
	}
	write([]byte("{"))
	d.Follow(t.Context())
	d.Follow(t.Context())
	if n := strings.Count(log.String(), "is not in force"); n != 1 {
		t.Errorf("a broken file is told of %d times: %s", n, log.String())
	}
	if still, err := d.Held(); err != nil || still == nil || still.Digest != held.Digest {
		t.Errorf("after a broken file: held to %+v, %v", still, err)
	}
	if _, err := d.Reconcile(t.Context(), mvm.ReconcileRequest{Forget: true}, nil); err != nil {
		t.Error(err)
	}
	if still, err := d.Held(); err != nil || still != nil {
		t.Errorf("after it was forgotten: held to %+v, %v", still, err)
	}
}
