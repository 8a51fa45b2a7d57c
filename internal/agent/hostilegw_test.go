package agent_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// rawAsk sends the JSON as a frame to port 53 and returns the answer, as a gateway does
// that was taken over and speaks for itself.
func (h *host) rawAsk(id, message string) guestproto.HostResponse {
	h.t.Helper()
	c, err := h.host.Connect(ctx(h.t), id, guestproto.HostPort)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := guestproto.WriteFrame(c, []byte(message)); err != nil {
		h.t.Fatal(err)
	}
	var resp guestproto.HostResponse
	if err := guestproto.Receive(c, &resp); err != nil {
		h.t.Fatalf("%s: %v", message, err)
	}
	return resp
}

// A gateway that was taken over gets at what its routes lead to and at nothing else of
// its tenant: not at its own pool, nor at other pools, and by key only where a route
// chooses by key.
func TestHostileGatewayKeepsToItsRoutes(t *testing.T) {
	h := newHost(t)
	h.start()
	w := h.instance()
	quota := mvm.DefaultQuota()
	quota.MaxPools = 5
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
		t.Fatal(err)
	}
	vault := h.pool("acme", worker("vault"))
	users := h.pool("acme", worker("users"))
	fixed := h.pool("acme", worker("fixed"))
	spec := worker("gateways")
	spec.Role = mvm.RoleGateway
	to := func(name, pool string, port int, s mvm.Selector) mvm.Route {
		return mvm.Route{Name: name, Match: mvm.MatchRule{Port: port}, To: mvm.Target{PoolID: pool, Selector: s, TargetPort: 80}}
	}
	spec.Routes = &mvm.RoutingTable{Routes: []mvm.Route{
		to("any", "workers", 8080, mvm.Selector{Kind: mvm.SelectAny}),
		to("users", "users", 8081, mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-user"}),
		to("fixed", "fixed", 8082, mvm.Selector{Kind: mvm.SelectByIP, IP: fixed.IP}),
	}}
	gw := h.pool("acme", spec)
	for _, i := range []mvm.Instance{vault, users} {
		h.do(i.ID, mvm.OpSleep)
	}
	for _, c := range []struct {
		what, message string
		served        bool
	}{
		{"any of a route's pool", `{"Acquire":{"tenant_id":"acme","pool_id":"workers"}}`, true},
		{"a key of a route by key", `{"Acquire":{"tenant_id":"acme","pool_id":"users","key":"ann@example.org"}}`, true},
		{"a route's address", `{"Acquire":{"tenant_id":"acme","pool_id":"fixed","ip":"` + fixed.IP.String() + `"}}`, true},
		{"its own status", `{"QueryInstanceStatus":{"tenant_id":"acme","pool_id":"gateways","instance_id":"` + gw.ID + `"}}`, true},
		{"status of a route's", `{"QueryInstanceStatus":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + w.ID + `"}}`, true},
		{"wake of a route's", `{"WakeInstance":{"tenant_id":"acme","pool_id":"users","instance_id":"` + users.ID + `"}}`, true},

		{"a route's instance by id", `{"Acquire":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + w.ID + `"}}`, true},
		{"a user's instance by id", `{"Acquire":{"tenant_id":"acme","pool_id":"users","instance_id":"` + users.ID + `"}}`, true},

		{"its own pool", `{"Acquire":{"tenant_id":"acme","pool_id":"gateways"}}`, false},
		{"a key of its own pool", `{"Acquire":{"tenant_id":"acme","pool_id":"gateways","key":"x"}}`, false},
		{"a pool without a route", `{"Acquire":{"tenant_id":"acme","pool_id":"vault"}}`, false},
		{"all of it", `{"Acquire":{"tenant_id":"acme","pool_id":"vault","spread":true}}`, false},
		{"a key of it", `{"Acquire":{"tenant_id":"acme","pool_id":"vault","key":"x"}}`, false},
		{"an address of it", `{"Acquire":{"tenant_id":"acme","pool_id":"vault","ip":"` + vault.IP.String() + `"}}`, false},
		{"a key where routes take any", `{"Acquire":{"tenant_id":"acme","pool_id":"workers","key":"x"}}`, false},
		{"an address where routes take any", `{"Acquire":{"tenant_id":"acme","pool_id":"workers","ip":"` + w.IP.String() + `"}}`, false},
		{"any where routes go by key", `{"Acquire":{"tenant_id":"acme","pool_id":"users"}}`, false},
		{"a user's by its address", `{"Acquire":{"tenant_id":"acme","pool_id":"users","ip":"` + users.IP.String() + `"}}`, false},
		{"a key with an address", `{"Acquire":{"tenant_id":"acme","pool_id":"users","key":"x","ip":"` + users.IP.String() + `"}}`, false},
		{"another address", `{"Acquire":{"tenant_id":"acme","pool_id":"fixed","ip":"` + netip.MustParseAddr("10.240.0.99").String() + `"}}`, false},
		{"any of a route's by address", `{"Acquire":{"tenant_id":"acme","pool_id":"fixed"}}`, false},
		{"by id in a pool without a route", `{"Acquire":{"tenant_id":"acme","pool_id":"vault","instance_id":"` + vault.ID + `"}}`, false},
		{"by id under a route's pool", `{"Acquire":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + vault.ID + `"}}`, false},
		{"by id and another's address", `{"Acquire":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + w.ID + `","ip":"` + vault.IP.String() + `"}}`, false},
		{"by id and key", `{"Acquire":{"tenant_id":"acme","pool_id":"users","key":"x","instance_id":"` + users.ID + `"}}`, false},
		{"wake in a pool without a route", `{"WakeInstance":{"tenant_id":"acme","pool_id":"vault","instance_id":"` + vault.ID + `"}}`, false},
		{"the same under a route's pool", `{"WakeInstance":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + vault.ID + `"}}`, false},
		{"status in a pool without a route", `{"QueryInstanceStatus":{"tenant_id":"acme","pool_id":"vault","instance_id":"` + vault.ID + `"}}`, false},
		{"the same under a route's pool", `{"QueryInstanceStatus":{"tenant_id":"acme","pool_id":"workers","instance_id":"` + vault.ID + `"}}`, false},
	} {
		r := h.rawAsk(gw.ID, c.message)
		served := r.AcquireResult != nil && r.AcquireResult.Success || r.WakeResult != nil && r.WakeResult.Success || r.InstanceStatus != nil
		if served != c.served {
			answer, _ := json.Marshal(r)
			t.Errorf("%s: served %v, want %v: %s", c.what, served, c.served, answer)
		}
	}
	if got, _ := h.a.Instance(ctx(t), mvm.Address{Instance: vault.ID}); got.State != mvm.StateSleeping || got.Key != "" {
		t.Errorf("the instance of the pool without a route is %s, key %q; want it asleep", got.State, got.Key)
	}
	for _, pool := range []string{"gateways", "vault", "workers"} {
		if all, _ := h.a.Instances(ctx(t), mvm.Address{Tenant: "acme", Pool: pool}); len(all) != 1 {
			t.Errorf("pool %s has %d instances, want the one that it had", pool, len(all))
		}
	}
}

// What a guest says of the use of instances counts only for those that its routes lead
// to, and a worker learns of no other instance.
func TestHostileGuestsWordOnOthers(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	vault := h.pool("acme", worker("vault"))
	for _, c := range []struct {
		of   mvm.Instance
		want int
	}{{w, 7}, {vault, 0}, {gw, 0}} {
		b, err := guestproto.Encode(guestproto.HostRequest{ReportActivity: &guestproto.ReportActivity{Instances: []guestproto.Activity{
			{InstanceID: c.of.ID, Connections: 7, Open: 7, LastActive: time.Now()}}}})
		if err != nil {
			t.Fatal(err)
		}
		if r := h.rawAsk(gw.ID, string(b)); !r.ActivityAck {
			t.Fatalf("report: %+v", r)
		}
		if s, err := h.a.Stats(ctx(t), mvm.Address{Instance: c.of.ID}); err != nil || s.Connections != c.want {
			t.Errorf("%s has %d connections, %v; want %d", c.of.Address(), s.Connections, err, c.want)
		}
	}
	if r := h.rawAsk(w.ID, `{"QueryInstanceStatus":{"tenant_id":"acme","pool_id":"vault","instance_id":"`+vault.ID+`"}}`); r.InstanceStatus != nil {
		t.Errorf("a worker learnt of another: %+v", r.InstanceStatus)
	}
}
