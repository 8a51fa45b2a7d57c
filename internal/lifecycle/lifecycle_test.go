package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/lifecycle"
	"mvm/internal/snapshot"
	"mvm/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "i-00000001"

// house is a host of one instance, without VMMs.
type house struct {
	*lifecycle.Lifecycle
	store *store.Store
	full  error // what the quota says

	mu       sync.Mutex
	released int
	events   []mvm.Action
	ended    []error // of operations
	operated int
	launch   func(ctx context.Context) error
}

func (h *house) note(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

func (h *house) Record(e mvm.Event) { h.note(func() { h.events = append(h.events, e.Action) }) }
func (h *house) Operation(_ mvm.Transition, err error) {
	h.note(func() { h.ended = append(h.ended, err) })
}
func (h *house) Lost(mvm.Instance)                                 {}
func (h *house) Operated(string)                                   { h.note(func() { h.operated++ }) }
func (h *house) Poke()                                             {}
func (h *house) Bound() int64                                      { return 0 }
func (h *house) Changed()                                          {}
func (h *house) Apply(context.Context) error                       { return nil }
func (h *house) LastConsole(string) []string                       { return nil }
func (h *house) LastLines(_ context.Context, _, _ string) []string { return nil }

func (h *house) AdmitRunning(*store.Tx, mvm.Instance) error     { return h.full }
func (h *house) AdmitWarm(*store.Tx, mvm.Instance) error        { return h.full }
func (h *house) AdmitDisk(_ *store.Tx, _, _ mvm.Instance) error { return nil }

func (h *house) NewID(prefix string, _ func(string) (bool, error)) (string, error) {
	return prefix + "00000001", nil
}

// vmms are none: launching one is up to the test.
type vmms struct {
	lifecycle.VMMs
	h *house
}

func (v vmms) Of(string) lifecycle.VMM { return nil }
func (v vmms) Lives(string) bool       { return false }
func (v vmms) Stalled(string) string   { return "" }

func (v vmms) Launch(ctx context.Context, _ mvm.Instance, _ bool, _ func(driver.Spec) (driver.VMM, error)) error {
	return v.h.launch(ctx)
}

func (v vmms) Release(context.Context, mvm.Instance) error {
	v.h.note(func() { v.h.released++ })
	return nil
}

// health knows nothing.
type health struct{ lifecycle.Health }

func (health) GaveUp(mvm.Instance) *mvm.ServiceHealth { return nil }

// ingress reaches nobody.
type ingress struct{ lifecycle.Ingress }

func (ingress) GoneSoon(mvm.Instance) {}

func newHouse(t *testing.T) *house {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	f := folders.New(t.TempDir(), t.TempDir(), log, &snapshot.Shared{})
	err = errors.Join(f.MakeRoots(), st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID("acme", 1, time.Now()), tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1, Subnet: mvm.DefaultSubnet(1)}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}),
			tx.PutInstance(mvm.Instance{ID: id, Tenant: "acme", Pool: "agents", Role: mvm.RoleWorker, State: mvm.StateCreated}))
	}))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{store: st}
	life, end := context.WithCancelCause(context.Background())
	h.Lifecycle = lifecycle.New(life, lifecycle.Options{Store: st, Journal: h, Metrics: h, VMMs: vmms{h: h}, Networks: h, Ingress: ingress{}, Health: health{}, Logs: h,
		Quota: h, IDs: h, Aside: h, Reconcile: h, Idle: h, Schedule: noTimers{}, Folders: f, Log: log, Timeouts: lifecycle.Timeouts{}.WithDefaults(), KeepAside: time.Hour,
		Seam: func(string, string) error { return nil }})
	t.Cleanup(func() {
		end(lifecycle.ErrClosing)
		h.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) record(t *testing.T) (i mvm.Instance, last mvm.Transition) {
	t.Helper()
	err := h.store.View(func(tx *store.Tx) (err error) {
		if i, err = tx.Instance(id); err != nil {
			return err
		}
		all, err := tx.Transitions(id)
		if n := len(all); n > 0 {
			last = all[n-1]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return i, last
}

func person() mvm.Asker { return mvm.Asker{Kind: mvm.AskerCLI} }

// TestFailedStartIsTakenBack: what a start did before its VMM could not be made is taken back,
// and the record says why.
func TestFailedStartIsTakenBack(t *testing.T) {
	h := newHouse(t)
	boom := mvm.Errorf(mvm.KindUnavailable, "no VMM today")
	h.launch = func(context.Context) error { return boom }
	_, err := h.Submit(t.Context(), id, lifecycle.Request{Op: mvm.OpStart, By: person()}, nil)
	if !errors.Is(err, boom) {
		t.Fatalf("start: %v, want %v", err, boom)
	}
	i, last := h.record(t)
	if i.State != mvm.StateReady || i.Op != nil || h.released != 1 {
		t.Errorf("record %+v, %d releases; want ready, no intent, one", i, h.released)
	}
	if last.Op != mvm.OpStart || last.Error == "" || len(h.ended) != 1 || h.IsHalfDone(id) {
		t.Errorf("told as %+v, %v, half done: %t", last, h.ended, h.IsHalfDone(id))
	}
}

// TestQuotaIsAskedFirst: where the quota refuses, nothing is launched, and that is recorded.
func TestQuotaIsAskedFirst(t *testing.T) {
	h := newHouse(t)
	h.full = mvm.Errorf(mvm.KindQuota, "tenant acme: max_running is 0")
	h.launch = func(context.Context) error { return errors.New("launched beyond the quota") }
	_, err := h.Submit(t.Context(), id, lifecycle.Request{Op: mvm.OpStart, By: person()}, nil)
	if !mvm.IsKind(err, mvm.KindQuota) || !slices.Contains(h.events, mvm.QuotaExceeded) {
		t.Errorf("start: %v; events %v", err, h.events)
	}
	if i, _ := h.record(t); i.Op != nil {
		t.Errorf("intent %+v stays", i.Op)
	}
}

// TestOneQueuePerInstance: equal requests are one operation, and a later one that makes it
// needless ends it.
func TestOneQueuePerInstance(t *testing.T) {
	h := newHouse(t)
	under := make(chan struct{})
	h.launch = func(ctx context.Context) error {
		close(under)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	enqueue := func(op mvm.OpKind) *lifecycle.Job {
		t.Helper()
		j, err := h.Enqueue(id, lifecycle.Request{Op: op, By: person()})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	start := enqueue(mvm.OpStart)
	<-under
	if i, _ := h.record(t); i.Op == nil || i.Op.Kind != mvm.OpStart {
		t.Errorf("under way without a durable intent: %+v", i.Op)
	}
	if enqueue(mvm.OpWake) != start {
		t.Fatal("a second request to run is another operation")
	}
	stop := enqueue(mvm.OpStop)
	<-start.Done()
	<-stop.Done()
	if !lifecycle.GaveWay(start.Err()) {
		t.Errorf("the start ended with %v", start.Err())
	}
	if !mvm.IsKind(stop.Err(), mvm.KindState) { // it is ready, and was never started
		t.Errorf("the stop ended with %v", stop.Err())
	}
}

// TestClosedTakesNoRequest: it says that the agent is away.
func TestClosedTakesNoRequest(t *testing.T) {
	h := newHouse(t)
	h.Stop()
	if _, err := h.Enqueue(id, lifecycle.Request{Op: mvm.OpStart, By: person()}); !errors.Is(err, mvm.ErrAway) {
		t.Errorf("a request after the end: %v", err)
	}
}

// noTimers is a schedule of guests that want nothing.
type noTimers struct{}

func (noTimers) Rests(string, time.Time) time.Time { return time.Time{} }
func (noTimers) Changed(mvm.Instance)              {}
