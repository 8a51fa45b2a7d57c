package agent_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// gatewayHost has tenant acme with a gateway and a worker that runs, and tenant
// zeta with a worker.
func gatewayHost(t *testing.T) (h *host, gw, w, other mvm.Instance) {
	h = newHost(t)
	h.start()
	w = h.instance()
	gateways := worker("gateways")
	gateways.Role, gateways.Routes = mvm.RoleGateway, routesTo("workers")
	gw = h.pool("acme", gateways)
	if _, err := h.a.CreateTenant(ctx(t), mvm.TenantSpec{ID: "zeta"}); err != nil {
		t.Fatal(err)
	}
	return h, gw, w, h.pool("zeta", worker("workers"))
}

// routesTo lead to any instance of the pools, and by key.
func routesTo(pools ...string) *mvm.RoutingTable {
	out := &mvm.RoutingTable{}
	for n, pool := range pools {
		for k, s := range []mvm.Selector{{Kind: mvm.SelectAny}, {Kind: mvm.SelectByKey, From: "path"}} {
			out.Routes = append(out.Routes, mvm.Route{Name: fmt.Sprintf("r%d-%d", n, k), Match: mvm.MatchRule{Port: 8000 + 10*n + k},
				To: mvm.Target{PoolID: pool, Selector: s, TargetPort: 80}})
		}
	}
	return out
}

// pool makes a pool with one running instance.
func (h *host) pool(tenant string, spec mvm.PoolSpec) mvm.Instance {
	h.t.Helper()
	c := ctx(h.t)
	if _, err := h.a.CreatePool(c, tenant, spec); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.a.BuildPool(c, tenant, spec.ID, nil); err != nil {
		h.t.Fatal(err)
	}
	i, err := h.a.CreateInstance(c, tenant, spec.ID, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(i.ID, mvm.OpStart)
}

func (h *host) ask(id string, req guestproto.HostRequest) guestproto.HostResponse {
	h.t.Helper()
	resp, err := h.host.Ask(ctx(h.t), id, req)
	var refused *guestproto.RemoteError
	if errors.As(err, &refused) {
		return guestproto.HostResponse{Error: &guestproto.Error{Message: refused.Message}}
	}
	if err != nil {
		h.t.Fatalf("ask host: %v", err)
	}
	return resp
}

func (h *host) actions(tenant string) (out []mvm.Action) {
	h.t.Helper()
	err := h.a.Events(ctx(h.t), mvm.EventFilter{Tenant: tenant}, func(e mvm.Event) error {
		out = append(out, e.Action)
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func count(actions []mvm.Action, a mvm.Action) (n int) {
	for _, x := range actions {
		if x == a {
			n++
		}
	}
	return n
}

func name(i mvm.Instance) *guestproto.InstanceName {
	return &guestproto.InstanceName{TenantID: i.Tenant, PoolID: i.Pool, InstanceID: i.ID}
}

func TestGatewayWakesWorker(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	h.do(w.ID, mvm.OpSleep)
	if r := h.ask(gw.ID, guestproto.HostRequest{QueryInstanceStatus: name(w)}); r.InstanceStatus == nil || r.InstanceStatus.Status != mvm.StateSleeping || r.InstanceStatus.GuestIP != w.IP {
		t.Errorf("status %+v, want sleeping at %s", r, w.IP)
	}
	if r := h.ask(gw.ID, guestproto.HostRequest{WakeInstance: name(w)}); r.WakeResult == nil || !r.WakeResult.Success {
		t.Fatalf("wake: %+v", r)
	}
	got, err := h.a.Instance(ctx(t), mvm.Address{Instance: w.ID})
	if err != nil || got.State != mvm.StateRunning || got.Last.By != mvm.ParseAsker("gateway:"+gw.ID) {
		t.Errorf("worker %s by %q, want running by the gateway", got.State, got.Last.By)
	}
}

func TestHostBoundRefusals(t *testing.T) {
	h, gw, w, other := gatewayHost(t)
	h.do(other.ID, mvm.OpSleep)
	forged := name(other)
	forged.TenantID = "acme"
	routes := routesTo("workers") // one leads to the other's address
	routes.Routes = append(routes.Routes, mvm.Route{Name: "other", Match: mvm.MatchRule{Port: 9000},
		To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectByIP, IP: other.IP}, TargetPort: 80}})
	p, err := h.a.Pool(ctx(t), "acme", "gateways")
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.Routes = routes
	if _, err := h.a.UpdatePool(ctx(t), "acme", "gateways", mvm.PoolUpdate{Spec: &p.Spec}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		from mvm.Instance
		req  guestproto.HostRequest
		deny bool // audited as WakeRefused
	}{
		{"worker wakes", w, guestproto.HostRequest{WakeInstance: name(gw)}, true},
		{"worker acquires", w, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers"}}, true},
		{"another tenant named", gw, guestproto.HostRequest{WakeInstance: name(other)}, true},
		{"another tenant named, query", gw, guestproto.HostRequest{QueryInstanceStatus: name(other)}, true},
		{"another tenant acquired", gw, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "zeta", PoolID: "workers"}}, true},
		{"another tenant's instance under own name", gw, guestproto.HostRequest{WakeInstance: forged}, false},
		{"the same, query", gw, guestproto.HostRequest{QueryInstanceStatus: forged}, false},
		{"by the other's address", gw, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers", IP: other.IP}}, false},
	} {
		before := count(h.actions("acme"), mvm.WakeRefused)
		r := h.ask(c.from.ID, c.req)
		ok := r.WakeResult != nil && r.WakeResult.Success || r.AcquireResult != nil && r.AcquireResult.Success || r.InstanceStatus != nil
		if ok {
			t.Errorf("%s: let in: %+v", c.what, r)
		}
		if denied := count(h.actions("acme"), mvm.WakeRefused) > before; denied != c.deny {
			t.Errorf("%s: audited %v, want %v", c.what, denied, c.deny)
		}
	}
	if got, _ := h.a.Instance(ctx(t), mvm.Address{Instance: other.ID}); got.State != mvm.StateSleeping {
		t.Errorf("the other tenant's worker is %s, want asleep still", got.State)
	}
}

func TestAcquireByKey(t *testing.T) {
	h, gw, spare, _ := gatewayHost(t)
	acquire := func(key string) *guestproto.AcquireResult {
		return h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers", Key: key}}).AcquireResult
	}
	if r := acquire("ann"); !r.Success || r.Instances[0].InstanceID != spare.ID {
		t.Fatalf("first key got %+v, want the spare %s", r, spare.ID)
	}
	ids := make([]string, 20)
	var wg sync.WaitGroup
	for n := range ids {
		wg.Go(func() {
			if r := acquire("bob"); r.Success {
				ids[n] = r.Instances[0].InstanceID
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] || id == spare.ID {
			t.Fatalf("20 requests of one new key got %v, want one new instance", ids)
		}
	}
	if r := h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers"}}).AcquireResult; r.Success {
		t.Errorf("any got %+v, want nothing: both instances belong to users", r.Instances)
	}
	for _, key := range []string{"a b", "x/y", strings.Repeat("k", 500), "a\u00e9@b"} {
		if r := acquire(key); r.Success {
			t.Errorf("key %q was taken", key)
		}
	}
	quota := mvm.DefaultQuota()
	quota.MaxInstancesPerPool = 2
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
		t.Fatal(err)
	}
	if r := acquire("cleo"); r.Success || r.RetrySecs == 0 {
		t.Errorf("over the quota: %+v, want a refusal with a time to retry", r)
	}
	if n := count(h.actions("acme"), mvm.QuotaExceeded); n != 1 {
		t.Errorf("%d QuotaExceeded events, want 1", n)
	}
}

func TestHostileFrames(t *testing.T) {
	h, gw, _, _ := gatewayHost(t)
	frame := func(b string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	for what, b := range map[string][]byte{
		"oversized length": {0xff, 0xff, 0xff, 0xff, 'x'},
		"truncated":        frame(`{"WakeInstance":{}}`)[:9],
		"no JSON":          frame("\x00\x01\x02"),
		"deep":             frame(strings.Repeat("[", 200000)),
		"two variants":     frame(`{"WakeInstance":{},"Acquire":{}}`),
		"wrong types":      frame(`{"WakeInstance":{"tenant_id":7}}`),
		"unknown":          frame(`"Reboot"`),
	} {
		c, err := h.host.Connect(ctx(t), gw.ID, guestproto.HostPort)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := c.Write(b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		resp, err := io.ReadAll(io.LimitReader(c, 4))
		c.Close()
		if strings.Contains(fmt.Sprint(err), "timeout") {
			t.Errorf("%s: the host neither answers nor ends it (%q)", what, resp)
		}
	}
	if r := h.ask(gw.ID, guestproto.HostRequest{QueryInstanceStatus: name(gw)}); r.InstanceStatus == nil {
		t.Errorf("after the bad frames: %+v", r)
	}
}

func TestFloodIsBounded(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	before := heap()
	tooMany := 0
	c, err := h.host.Connect(ctx(t), w.ID, guestproto.HostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2000 {
		r, err := guestproto.HostCall(ctx(t), c, guestproto.HostRequest{WakeInstance: name(gw)})
		if err != nil && !strings.Contains(err.Error(), "too many") && !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(err, r), "too many") {
			tooMany++
		}
	}
	if tooMany < 1000 {
		t.Errorf("%d of 2000 requests were refused as too many, want most", tooMany)
	}
	if n := count(h.actions("acme"), mvm.WakeRefused); n == 0 || n > 50 {
		t.Errorf("%d refusals in the log, want some and not a flood", n)
	}
	if after := heap(); after > before+32<<20 {
		t.Errorf("heap grew from %d to %d bytes", before, after)
	}
	if _, err := h.host.Ask(context.Background(), gw.ID, guestproto.HostRequest{QueryInstanceStatus: name(gw)}); err != nil {
		t.Errorf("another guest's request during the flood: %v", err)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
