package ingress_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/ingress"
	"mvm/internal/publish"
	"mvm/internal/store"
)

// The instances of the house: acme's gateway and its worker, and one of another tenant.
const (
	gateway = "i-00000001"
	worker  = "i-00000002"
	other   = "i-00000003"
)

// house is a host with these instances, of which nobody but the test makes something run.
type house struct {
	store *store.Store
	ln    net.Listener

	mu     sync.Mutex
	away   bool // gateways do not answer
	asked  []guestproto.Request
	woken  []mvm.Asker
	events []mvm.Event
	made   int
	pushed []string
	owed   []string
	fails  bool // wakes
}

func newHouse(t *testing.T) (*house, *ingress.Ingress) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	routes := &mvm.RoutingTable{Routes: []mvm.Route{{To: mvm.Target{PoolID: "agents", Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "path"}}},
		{To: mvm.Target{PoolID: "agents", Selector: mvm.Selector{Kind: mvm.SelectAny}}}}}
	err = st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID("acme", 1, time.Now()), tx.ReserveNetID("evil", 2, time.Now()),
			tx.PutTenant(mvm.Tenant{ID: "acme", NetID: 1}), tx.PutTenant(mvm.Tenant{ID: "evil", NetID: 2}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "gw", Role: mvm.RoleGateway, Routes: routes}}),
			tx.PutPool(mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}),
			tx.PutPool(mvm.Pool{Tenant: "evil", Spec: mvm.PoolSpec{ID: "agents", Role: mvm.RoleWorker}}),
			tx.PutInstance(mvm.Instance{ID: gateway, Tenant: "acme", Pool: "gw", Role: mvm.RoleGateway, State: mvm.StateRunning, Offset: 2}),
			tx.PutInstance(mvm.Instance{ID: worker, Tenant: "acme", Pool: "agents", Role: mvm.RoleWorker, State: mvm.StateSleeping, Offset: 3, IP: netip.MustParseAddr("10.1.0.3")}),
			tx.PutInstance(mvm.Instance{ID: other, Tenant: "evil", Pool: "agents", Role: mvm.RoleWorker, State: mvm.StateRunning, Offset: 2}))
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{store: st}
	recovered := make(chan struct{})
	close(recovered)
	life, end := context.WithCancel(context.Background())
	in := ingress.New(life, ingress.Options{Instances: h, Queue: h, Fleet: h, Deliver: h, Store: st, Journal: h, Metrics: h, Publisher: h,
		Log: slog.New(slog.DiscardHandler), Call: time.Second, Recovered: recovered})
	t.Cleanup(func() { end(); in.Close() })
	return h, in
}

func (h *house) note(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

func (h *house) HasVMM(string) bool                                       { return true }
func (h *house) Lives(string) bool                                        { return true }
func (h *house) HalfDone(string) bool                                     { return false }
func (h *house) GaveUp(mvm.Instance) *mvm.ServiceHealth                   { return nil }
func (h *house) Stalled(string) string                                    { return "" }
func (h *house) Reported(mvm.Instance, guestproto.Status)                 {}
func (h *house) ListenHost(string) (net.Listener, error)                  { return h.ln, nil }
func (h *house) RemoveHostSocket(string) error                            { return nil }
func (h *house) CallOff(string)                                           {}
func (h *house) ServesNobody(error) bool                                  { return false }
func (h *house) Changed()                                                 {}
func (h *house) Owe(id string)                                            { h.note(func() { h.owed = append(h.owed, id) }) }
func (h *house) Messages(mvm.ChannelKind, string, int)                    {}
func (h *house) HostBound(string, string)                                 {}
func (h *house) Record(e mvm.Event)                                       { h.note(func() { h.events = append(h.events, e) }) }
func (h *house) Apply([]publish.Binding) ([]publish.Outcome, error)       { return nil, nil }
func (h *house) Close() error                                             { return nil }
func (h *house) Reclaim(context.Context, string, mvm.Asker, string) error { return nil }

func (h *house) Push(_ context.Context, i mvm.Instance) error {
	h.note(func() { h.pushed = append(h.pushed, i.ID) })
	return nil
}

func (h *house) NewInstance(tx *store.Tx, tenant, pool, key string, op mvm.Op) (mvm.Instance, error) {
	h.made++
	return mvm.Instance{}, errors.New("there is a spare")
}

func (h *house) Ask(_ context.Context, _ string, req guestproto.Request) (guestproto.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, req)
	if h.away {
		return guestproto.Response{}, errors.New("no answer")
	}
	if req.Peers {
		return guestproto.Response{Peers: &guestproto.Peers{Instances: []guestproto.Peer{{InstanceID: worker, Boot: 1}}}}, nil
	}
	return guestproto.Response{FenceAck: &guestproto.FenceAck{ActiveRequests: 2, Open: 3}}, nil
}

func (h *house) Wake(_ context.Context, id string, by mvm.Asker, _ string) (i mvm.Instance, err error) {
	h.note(func() { h.woken = append(h.woken, by) })
	err = h.store.View(func(tx *store.Tx) error {
		i, err = tx.Instance(id)
		return err
	})
	if h.fails {
		err = errors.New("who asked is gone")
	}
	return i, err
}

// ask sends the request over the socket of the instance.
func (h *house) ask(t *testing.T, in *ingress.Ingress, id string, req guestproto.HostRequest) (resp guestproto.HostResponse) {
	t.Helper()
	var i mvm.Instance
	if err := h.store.View(func(tx *store.Tx) (err error) { i, err = tx.Instance(id); return err }); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "s")
	var err error
	if h.ln, err = net.Listen("unix", sock); err != nil {
		t.Fatal(err)
	}
	l, err := in.Listen(i)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(guestproto.Send(c, req), guestproto.Receive(c, &resp)); err != nil {
		t.Fatal(err)
	}
	return resp
}

// Who asks is known by the socket: a worker wakes nobody, no tenant names another, and a
// gateway gets what its routes lead to.
func TestWhoAsksIsTheSocket(t *testing.T) {
	h, in := newHouse(t)
	acquire := guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "agents"}}
	if r := h.ask(t, in, worker, acquire); r.Error == nil || len(h.woken) != 0 {
		t.Errorf("a worker acquired: %+v", r)
	}
	if r := h.ask(t, in, other, acquire); r.Error == nil || len(h.woken) != 0 {
		t.Errorf("another tenant's guest acquired: %+v", r)
	}
	if n := len(h.events); n != 2 || h.events[0].Action != mvm.WakeRefused || h.events[0].By != (mvm.Asker{Kind: mvm.AskerGuest, ID: worker}) {
		t.Errorf("%d refusals are on record: %+v", n, h.events)
	}
	query := guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{TenantID: "acme", PoolID: "agents", InstanceID: other}}
	if r := h.ask(t, in, gateway, query); r.Error == nil {
		t.Errorf("a gateway is told of another tenant's instance: %+v", r)
	}
	r := h.ask(t, in, gateway, acquire)
	if a := r.AcquireResult; a == nil || !a.Success || len(a.Instances) != 1 || a.Instances[0].InstanceID != worker {
		t.Errorf("a gateway's question: %+v", r)
	}
	if !slices.Equal(h.woken, []mvm.Asker{{Kind: mvm.AskerGateway, ID: gateway}}) {
		t.Errorf("woken for %v", h.woken)
	}
}

// A spare of the pool becomes the key's own, once.
func TestKeyGetsASpare(t *testing.T) {
	h, in := newHouse(t)
	for range 2 {
		r := h.ask(t, in, gateway, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "agents", Key: "ann"}})
		if a := r.AcquireResult; a == nil || !a.Success || a.Instances[0].InstanceID != worker {
			t.Fatalf("a request of ann: %+v", r)
		}
	}
	err := h.store.View(func(tx *store.Tx) error {
		i, err := tx.InstanceByKey("acme", "agents", "ann")
		if i.ID != worker || h.made != 0 {
			t.Errorf("ann has %q, and %d were made", i.ID, h.made)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Who has claimed a spare may leave before it is awake, and another's wake goes on with it: it
// is told whose it is all the same.
func TestClaimedSpareIsToldLater(t *testing.T) {
	h, in := newHouse(t)
	ann := guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "agents", Key: "ann"}}
	h.fails = true
	if a := h.ask(t, in, gateway, ann).AcquireResult; a == nil || a.Success {
		t.Fatalf("a request whose wake fails: %+v", a)
	}
	if !slices.Equal(h.owed, []string{worker}) || len(h.pushed) != 0 {
		t.Errorf("owed to %v, told %v", h.owed, h.pushed)
	}
	h.fails = false
	if a := h.ask(t, in, gateway, ann).AcquireResult; a == nil || !a.Success {
		t.Fatalf("a request of ann: %+v", a)
	}
	if len(h.owed) != 1 || len(h.pushed) != 0 { // it is hers, and what it is owed comes by itself
		t.Errorf("owed to %v, told %v", h.owed, h.pushed)
	}
}

// A gateway that does not hear of an end is asked later, and what a fence tells counts.
func TestGatewaysHearOfEnds(t *testing.T) {
	h, in := newHouse(t)
	w := mvm.Instance{ID: worker, Tenant: "acme", DiskGeneration: 2}
	if use := in.Fence(t.Context(), w); use.Active != 2 || use.Open != 3 {
		t.Errorf("the fence says %+v", use)
	}
	if use := in.Use(worker); use.Open != 3 || use.Gateway != gateway {
		t.Errorf("the worker is used so: %+v", use)
	}
	h.away = true
	if in.Gone(t.Context(), w); in.Use(worker).Open != 0 {
		t.Errorf("connections to what is gone: %+v", in.Use(worker))
	}
	h.away, h.asked = false, nil
	in.RetryPeers()
	in.RetryPeers()
	if len(h.asked) != 1 || !h.asked[0].Peers {
		t.Errorf("the gateway was asked %+v, want once for its connections", h.asked)
	}
}
