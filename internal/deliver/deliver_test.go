package deliver_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/deliver"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

const id = "i-00000001"

// house is a host of one instance, which runs, and its guest.
type house struct {
	store *store.Store

	mu   sync.Mutex
	away bool // the guest does not answer
	got  []guestproto.Configure
	told int
}

func (h *house) HasVMM(i string) bool { return i == id }
func (h *house) Told(string)          { h.told++ }

func (h *house) ChannelKey(tenant, pool, channel string) ([]byte, error) {
	return []byte(tenant + "/" + pool + "/" + channel), nil
}

func (h *house) OpenSecrets(_ mvm.Tenant, sealed []byte) (map[string][]byte, error) {
	return map[string][]byte{"key": sealed}, nil
}

func (h *house) Ask(_ context.Context, _ string, req guestproto.Request) (guestproto.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return guestproto.Response{}, errors.New("no answer")
	}
	h.got = append(h.got, *req.Configure)
	return guestproto.Response{ConfigureAck: &guestproto.ConfigureAck{Success: true, Settling: true}}, nil
}

func newHouse(t *testing.T) (*house, *deliver.Deliverer) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	subnet := netip.MustParsePrefix("10.1.0.0/24")
	err = st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID("acme", 1, time.Now()),
			tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1, Subnet: subnet, SecretsGeneration: 3}), tx.PutSecrets("acme", []byte("v3")),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}),
			tx.PutInstance(mvm.Instance{ID: id, Tenant: "acme", Pool: "agents", Role: mvm.RoleWorker, State: mvm.StateRunning, IP: netip.MustParseAddr("10.1.0.5")}))
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{store: st}
	return h, deliver.New(deliver.Options{Store: st, Guests: h, Secrets: h, Log: slog.New(slog.DiscardHandler), Call: time.Second})
}

// A guest that misses a change is owed it, and gets the newest once it answers.
func TestMissedChangeIsOwed(t *testing.T) {
	h, d := newHouse(t)
	h.away = true
	if err := d.Tenant(t.Context(), "acme"); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("a guest that does not answer: %v", err)
	}
	d.Retry(t.Context())
	h.away = false
	d.Retry(t.Context())
	d.Retry(t.Context())
	if len(h.got) != 1 || h.got[0].Generation != 3 || h.told != 1 {
		t.Errorf("it got %d configurations, and was asked %d times whether services know; want 1 and 1", len(h.got), h.told)
	}
	err := h.store.View(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if i.SecretsGeneration != 3 {
			t.Errorf("its record has generation %d, want 3", i.SecretsGeneration)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The digest names what is in force: it is of everything but time, entropy and reason.
func TestDigestNamesTheConfiguration(t *testing.T) {
	h, d := newHouse(t)
	var i mvm.Instance
	read := func() {
		if err := h.store.View(func(tx *store.Tx) (err error) { i, err = tx.Instance(id); return err }); err != nil {
			t.Fatal(err)
		}
	}
	read()
	digest := func(reason string) []byte {
		c, err := d.Config(i, reason)
		if err != nil {
			t.Fatal(err)
		}
		return c.Digest
	}
	boot, wake := digest("boot"), digest("wake")
	if !slices.Equal(boot, wake) {
		t.Error("a wake's configuration has another digest than the boot's")
	}
	err := h.store.Update(func(tx *store.Tx) error { return tx.PutSecrets("acme", []byte("v4")) })
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(boot, digest("wake")) {
		t.Error("other secrets have the same digest")
	}
}
