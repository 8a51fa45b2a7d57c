package idle_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/idle"
	"mvm/internal/policy"
	"mvm/internal/store"
)

// house is a host of one instance, which runs.
type house struct {
	store  *store.Store
	wanted error // what an order ends with

	mu     sync.Mutex
	guest  string // how busy it says that it is
	orders []idle.Order
	events []mvm.Event
	put    []string // reasons for which something was put off
}

func newHouse(t *testing.T) *house {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	err = st.Update(func(tx *store.Tx) error {
		spec := mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}
		spec.Policy = mvm.RuntimePolicy{SleepAfterSeconds: 60, MinRunningSeconds: 1}
		return errors.Join(tx.ReserveNetID("acme", 1, time.Now()), tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1}), tx.PutPool(mvm.Pool{Tenant: "acme", Spec: spec}),
			tx.PutInstance(mvm.Instance{ID: id, Tenant: "acme", Pool: "agents", Role: mvm.RoleWorker, State: mvm.StateRunning, Ready: true, Changed: time.Now()}))
	})
	if err != nil {
		t.Fatal(err)
	}
	return &house{store: st, guest: "idle"}
}

func (h *house) VMMs() map[string]idle.VMM                   { return map[string]idle.VMM{id: h} }
func (h *house) Stats(context.Context) (driver.Stats, error) { return driver.Stats{}, nil }
func (h *house) Use(string, *policy.Sample)                  {}
func (h *house) Look(context.Context, mvm.Instance)          {}
func (h *house) Busy(string) bool                            { return false }
func (h *house) CalledOff(err error) bool                    { return errors.Is(err, errWanted) }
func (h *house) Done() <-chan struct{}                       { return closed() }
func (h *house) Err() error                                  { return h.wanted }
func (h *house) Deferred(_ mvm.OpKind, reason string) {
	h.note(func() { h.put = append(h.put, reason) })
}
func (h *house) Record(e mvm.Event) { h.note(func() { h.events = append(h.events, e) }) }
func (h *house) Order(_ string, o idle.Order) (j idle.Job, err error) {
	h.note(func() { h.orders = append(h.orders, o) })
	return h, nil
}
func (h *house) Ask(context.Context, string, guestproto.Request) (r guestproto.Response, err error) {
	h.note(func() { r.WorkerStatus = &guestproto.WorkerStatus{Status: h.guest} })
	return r, nil
}

// id is of the instance that there is.
const id = "i-00000001"

var errWanted = errors.New("somebody wants it")

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (h *house) note(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

// run has the loop run for the time.
func (h *house) run(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	idle.New(idle.Options{Instances: h, Queue: h, Store: h.store, Journal: h, Metrics: h, Log: slog.New(slog.DiscardHandler), Call: time.Second}).Run(ctx)
}

// An instance that nobody uses is ordered to sleep, on grounds that say so.
func TestIdleSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		began := time.Now()
		h.run(t, 3*time.Minute)
		if len(h.orders) == 0 || h.orders[0].Op != mvm.OpSleep || h.orders[0].Grounds.Since.Before(began) || h.orders[0].Grounds.Mute {
			t.Fatalf("orders %+v, want a sleep", h.orders)
		}
		if len(h.events) != 0 || len(h.put) != 0 {
			t.Errorf("what went well is on record: %+v, %v", h.events, h.put)
		}
	})
}

// One whose guest says that it works is left alone.
func TestBusyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.guest = "busy"
		if h.run(t, 10*time.Minute); len(h.orders) != 0 {
			t.Errorf("orders %+v of a guest that works", h.orders)
		}
	})
}

// What is called off is no failure, and is tried again; a failure is tried after pauses
// that grow, and is on record once.
func TestOrdersThatComeToNothing(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason string
		events func(n, orders int) bool
	}{
		{errWanted, "in_use", func(n, orders int) bool { return n == orders }},
		{errors.New("no disk"), "failed", func(n, _ int) bool { return n == 1 }},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			h.wanted = c.err
			h.run(t, 10*time.Minute)
			if n := len(h.orders); n < 2 || n > 12 || !c.events(len(h.events), n) {
				t.Errorf("%v: %d orders and %d events in 10 minutes", c.err, n, len(h.events))
			}
			for _, r := range h.put {
				if r != c.reason {
					t.Errorf("%v: counted as %q, want %q", c.err, r, c.reason)
				}
			}
		})
	}
}
