package agent_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mvm"
	document "mvm/internal/desired"
	"mvm/internal/store"
)

// keyed is a deployment whose gateway chooses by key on a published address.
func keyed(host string, auth *mvm.Auth) mvm.Deployment {
	d := base()
	d.Pools[0].Publish = []mvm.Publish{{Host: netip.MustParseAddrPort(host), Guest: 8080}}
	d.Pools[0].Routes.Routes[0].To.Selector = mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-mvm-user"}
	d.Pools[0].Routes.Routes[0].Auth = auth
	return d
}

func believesAnyone(err error) bool {
	return mvm.IsKind(err, mvm.KindInvalid) && strings.Contains(err.Error(), "route all lets anyone who reaches 0.0.0.0:9000")
}

// Users that anybody may name are refused on an address that anybody can reach, before
// anything changes, whoever asks and in which form; and are taken where they are spelled
// out, or where only the host's programs come.
func TestExposedRoutesAreSpelledOut(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		c := ctx(t)
		open := keyed("0.0.0.0:9000", nil)
		for _, dry := range []bool{true, false} {
			if steps, err := h.a.Apply(c, open, mvm.ApplyOptions{Dry: dry}, nil); !believesAnyone(err) || len(steps) > 0 {
				t.Errorf("apply, dry %v: %v, %v", dry, steps, err)
			}
		}
		if all, _ := h.a.Tenants(c); len(all) != 0 {
			t.Errorf("something changed: %+v", all)
		}
		loopback := keyed("127.0.0.1:9000", nil)
		if _, err := h.a.Apply(c, loopback, mvm.ApplyOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		p, err := h.a.Pool(c, "acme", "gateways")
		if err != nil || len(p.Warnings) > 0 {
			t.Fatalf("on loopback: %+v, %v", p.Warnings, err)
		}
		if _, err := h.a.UpdatePool(c, "acme", "gateways", mvm.PoolUpdate{Spec: &open.Pools[0]}); !believesAnyone(err) {
			t.Errorf("update: %v", err)
		}
		if _, err := h.a.Apply(c, open, mvm.ApplyOptions{}, nil); !believesAnyone(err) {
			t.Errorf("apply to what is there: %v", err)
		}
		other := open.Pools[0]
		other.ID = "more"
		if _, err := h.a.CreatePool(c, "acme", other); !believesAnyone(err) {
			t.Errorf("create: %v", err)
		}
		doc := document.FromState(h.nodeID, []mvm.Tenant{{ID: "acme", Quota: mvm.DefaultQuota()}},
			[]mvm.Pool{{Tenant: "acme", Spec: open.Pools[0]}, {Tenant: "acme", Spec: open.Pools[1]}}, nil)
		doc.Tenants[0].Network = document.Network{}
		if doc.NodeID == "" {
			info, err := h.a.NodeInfo(c)
			if err != nil {
				t.Fatal(err)
			}
			doc.NodeID = info.NodeID
		}
		raw, err := doc.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.a.Reconcile(c, mvm.ReconcileRequest{State: raw}, nil); !believesAnyone(err) {
			t.Errorf("desired state: %v", err)
		}
		if now, _ := h.a.Pool(c, "acme", "gateways"); !now.Spec.Same(p.Spec) {
			t.Errorf("the pool changed: %+v", now.Spec)
		}
		for name, auth := range map[string]*mvm.Auth{"none": {Mode: mvm.AuthNone},
			"proxy": {Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			"jwt":   {Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"key"}}} {
			if _, err := h.a.Apply(c, keyed("0.0.0.0:9000", auth), mvm.ApplyOptions{}, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// What was exposed before it was asked to be spelled out goes on, can be changed in other
// ways, and is told wherever the pool is shown.
func TestExposedBeforeIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		c := ctx(t)
		if _, err := h.a.Apply(c, keyed("127.0.0.1:9000", nil), mvm.ApplyOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		open := keyed("0.0.0.0:9000", nil)
		err := h.st.Update(func(tx *store.Tx) error {
			p, err := tx.Pool("acme", "gateways")
			p.Spec = open.Pools[0]
			if err != nil {
				return err
			}
			return tx.PutPool(p)
		})
		if err != nil {
			t.Fatal(err)
		}
		h.stop()
		h.start()
		told := func() string {
			one, err := h.a.Pool(c, "acme", "gateways")
			all, err2 := h.a.Pools(c, "acme")
			if err != nil || err2 != nil || len(all) != 2 || fmt.Sprint(all[0].Warnings) != fmt.Sprint(one.Warnings) {
				t.Fatalf("%+v, %v, %+v, %v", one, err, all, err2)
			}
			return fmt.Sprint(one.Warnings)
		}
		if !strings.Contains(told(), "route all lets anyone who reaches 0.0.0.0:9000") || !strings.Contains(h.logged(), "lets anyone who reaches") {
			t.Errorf("warnings %s", told())
		}
		open.Pools[0].Env = map[string]string{"A": "b"}
		if _, err := h.a.Apply(c, open, mvm.ApplyOptions{}, nil); err != nil {
			t.Errorf("another change of it: %v", err)
		}
		if _, err := h.a.Apply(c, keyed("0.0.0.0:9000", &mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"lost"}}), mvm.ApplyOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(told(), "the secret lost, which the tenant does not have") {
			t.Errorf("warnings %s", told())
		}
	})
}

// The keys that verify tokens reach the gateway, also where its pool's scopes leave
// their secrets out, and a rotation reaches it while it runs.
func TestRouteKeysReachTheGateway(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		d := keyed("0.0.0.0:9000", &mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"key"}})
		d.Secrets["mail"] = []byte("m")
		d.Pools[0].SecretScopes = []mvm.SecretScope{{Integration: "mail", Keys: []string{"mail"}}}
		if _, err := h.a.Apply(ctx(t), d, mvm.ApplyOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		gw := h.all("gateways")[0]
		if got := string(guestOf(h, gw).RouteKeys["key"]); got != "one" {
			t.Errorf("the gateway has key %q, want one", got)
		}
		if w := h.all("workers")[0]; guestOf(h, w).RouteKeys != nil {
			t.Error("a worker has the keys of routes")
		}
		d.Secrets["key"] = []byte("two")
		if _, err := h.a.Apply(ctx(t), d, mvm.ApplyOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		if now := h.all("gateways")[0]; now.ID != gw.ID || string(guestOf(h, now).RouteKeys["key"]) != "two" || !now.Changed.Equal(gw.Changed) {
			t.Errorf("after the rotation %s has %q, changed %s", now.ID, guestOf(h, now).RouteKeys["key"], now.Changed)
		}
	})
}
