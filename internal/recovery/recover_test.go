package recovery_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/recovery"
	"mvm/internal/store"
)

// house is a host on which an agent starts.
type house struct {
	mu     sync.Mutex
	paused map[string]bool // VMMs that outlived the agent before, and whether their vCPUs stand still
	broken map[string]bool // VMMs that can't be taken up
	did    []string
}

func (h *house) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.did = append(h.did, what)
}

func (h *house) Changed()                                {}
func (h *house) Apply(context.Context) error             { h.note("networks"); return nil }
func (h *house) Sweep(context.Context) ([]string, error) { h.note("sweep networks"); return nil, nil }
func (h *house) Publish() error                          { h.note("publish"); return nil }
func (h *house) Owe(id string)                           { h.note("owe " + id) }
func (h *house) HalfDone(id string)                      { h.note("half done " + id) }

func (h *house) Redo(i mvm.Instance, op mvm.OpKind) error {
	h.note(string(op) + " " + i.ID)
	return nil
}

func (h *house) Repair(i mvm.Instance) error { h.note("repair " + i.ID); return nil }

// vmms are those of the house.
type vmms struct{ *house }

func (v vmms) Survey(context.Context, []mvm.Instance) { v.note("survey") }
func (v vmms) Surveyed()                              {}

func (v vmms) TakeUp(_ context.Context, i mvm.Instance) (alive, paused bool, err error) {
	if v.broken[i.ID] {
		return false, false, mvm.Errorf(mvm.KindUnavailable, "it does not answer")
	}
	paused, alive = v.paused[i.ID]
	return alive, paused, nil
}

func (v vmms) Release(_ context.Context, i mvm.Instance) error { v.note("release " + i.ID); return nil }

func (v vmms) Sweep(_ context.Context, owned func(id string) bool) ([]string, error) {
	v.note("sweep VMMs")
	if owned("i-foreign") {
		v.note("a foreign VMM is kept")
	}
	return nil, nil
}

// timers are those of the house's instances.
type timers struct{ known []string }

func (t *timers) Changed(i mvm.Instance) { t.known = append(t.known, i.ID) }

// instances are one of each way in which an agent may have left them.
func instances() []mvm.Instance {
	cut := func(kind mvm.OpKind) *mvm.Op { return &mvm.Op{Kind: kind, By: mvm.Asker{Kind: mvm.AskerCLI}} }
	all := []mvm.Instance{
		{ID: "i-00000001", State: mvm.StateRunning, Ready: true},
		{ID: "i-00000002", State: mvm.StateRunning, Ready: true},                                                                 // its VMM is gone
		{ID: "i-00000003", State: mvm.StateRunning, Ready: true},                                                                 // its vCPUs stand still
		{ID: "i-00000004", State: mvm.StateSleeping, Op: cut(mvm.OpSleep), Snapshot: &mvm.SnapshotRef{ID: "s-1"}},                // committed
		{ID: "i-00000005", State: mvm.StateStopped, Op: cut(mvm.OpStart)},                                                        // nothing was made yet
		{ID: "i-00000006", State: mvm.StateSleeping, Op: cut(mvm.OpWake), Snapshot: &mvm.SnapshotRef{ID: "s-1", Consumed: true}}, // vCPUs never ran
		{ID: "i-00000007", State: mvm.StateRunning, Ready: true},                                                                 // its VMM can't be taken up
		{ID: "i-00000008", State: mvm.StateStopped, Op: cut(mvm.OpDestroy)},
	}
	for n := range all {
		all[n].Tenant, all[n].Pool, all[n].Role, all[n].Offset = "acme", "agents", mvm.RoleWorker, n+4
	}
	return all
}

func newStore(t *testing.T, all []mvm.Instance) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	err = st.Update(func(tx *store.Tx) error {
		err := errors.Join(tx.ReserveNetID("acme", 1, time.Now()), tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1, Subnet: mvm.DefaultSubnet(1)}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}))
		for _, i := range all {
			err = errors.Join(err, tx.PutInstance(i))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func record(t *testing.T, st *store.Store, id string) (i mvm.Instance) {
	t.Helper()
	err := st.View(func(tx *store.Tx) (err error) {
		i, err = tx.Instance(id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestRecover: a host is taken up in order, each instance as the table of package repair
// says, and one that is broken costs no other anything.
func TestRecover(t *testing.T) {
	h := &house{paused: map[string]bool{"i-00000001": false, "i-00000003": true, "i-00000006": true}, broken: map[string]bool{"i-00000007": true}}
	st, done := newStore(t, instances()), make(chan struct{})
	log := slog.New(slog.DiscardHandler)
	sched := &timers{}
	r := recovery.New(recovery.Options{Store: st, VMMs: vmms{h}, Networks: h, Ports: h, Deliver: h, Queue: h, Schedule: sched, Folders: folders.New(t.TempDir(), t.TempDir(), log, nil),
		Log: log, Seam: func(string, string) error { return nil }, Recovered: done})
	if err := r.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	default:
		t.Error("clients wait on")
	}
	if len(sched.known) != len(instances()) {
		t.Errorf("the timers of %v are known, want those of all", sched.known)
	}
	order := []string{"networks", "publish", "sweep VMMs", "sweep networks", "survey"}
	if len(h.did) < len(order) || !slices.Equal(h.did[:len(order)], order) {
		t.Errorf("the host was taken up so: %v, want first %v", h.did, order)
	}
	got := h.did[len(order):]
	slices.Sort(got)
	want := []string{"destroy i-00000008", "half done i-00000007", "owe i-00000001", "owe i-00000003", "release i-00000002", "release i-00000005", "release i-00000006",
		"repair i-00000003", "sleep i-00000004", "start i-00000002", "start i-00000005", "wake i-00000006"}
	if !slices.Equal(got, want) {
		t.Errorf("of the instances:\n got %v\nwant %v", got, want)
	}
	if i := record(t, st, "i-00000002"); i.State != mvm.StateStopped || i.Last == nil || !i.Last.Unwanted {
		t.Errorf("an instance whose VMM is gone: %+v", i)
	}
	if i := record(t, st, "i-00000006"); i.Op != nil || i.Snapshot == nil || i.Snapshot.Consumed {
		t.Errorf("a wake whose vCPUs never ran: %+v", i)
	}
	if i := record(t, st, "i-00000007"); i.Problem == "" || i.State != mvm.StateRunning {
		t.Errorf("an instance that can't be taken up: %+v", i)
	}
}
