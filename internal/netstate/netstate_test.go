package netstate_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mvm"
	"mvm/internal/netstate"
	"mvm/internal/network"
	"mvm/internal/network/fakenet"
	"mvm/internal/store"
)

func newNetworks(t *testing.T) (*netstate.Networks, *fakenet.Network, *store.Store) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	n := fakenet.New()
	return netstate.New(n, st, nil), n, st
}

func putTenant(t *testing.T, st *store.Store, id string, netID int) {
	t.Helper()
	err := st.Update(func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID(id, netID, time.Now()), tx.PutTenant(mvm.Tenant{ID: id, NetID: netID, Subnet: mvm.DefaultSubnet(netID)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestApplyIsDoneOnce: the kernel is asked when something changed, and not otherwise. What
// failed is not taken for done.
func TestApplyIsDoneOnce(t *testing.T) {
	nets, fake, st := newNetworks(t)
	putTenant(t, st, "acme", 1)
	want := func(when string, calls int) {
		t.Helper()
		if got := fake.Calls(fakenet.OpApply); got != calls {
			t.Errorf("%s: the networks were applied %d times, want %d", when, got, calls)
		}
	}
	apply := func(fails bool) {
		t.Helper()
		if err := nets.Apply(t.Context()); (err != nil) != fails {
			t.Errorf("apply: %v, want an error: %t", err, fails)
		}
	}
	apply(false)
	apply(false)
	want("nothing changed", 1)
	putTenant(t, st, "other", 2)
	nets.Changed()
	fake.Fail(fakenet.OpApply, errors.New("the kernel refuses"), 1)
	apply(true)
	want("a change that fails", 2)
	apply(false)
	want("after the failure", 3)
	if got := len(fake.Config().Tenants); got != 2 {
		t.Errorf("the kernel has %d tenants, want 2", got)
	}
}

// TestConfigSaysWhoReachesWhat: egress and peers of pools count in a closed tenant alone. A
// closed one's guests may ask mvm for names while somebody listens.
func TestConfigSaysWhoReachesWhat(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	fake, names := fakenet.New(), &answers{}
	nets := netstate.New(fake, st, names)
	for n, id := range []string{"closed", "open"} {
		putTenant(t, st, id, n)
		err := st.Update(func(tx *store.Tx) error {
			pools := []mvm.PoolSpec{{ID: "gateways", Role: mvm.RoleGateway}, {ID: "users", Role: mvm.RoleWorker, Egress: []string{"10.1.0.0/16:443"}},
				{ID: "peers", Role: mvm.RoleWorker, Peers: true}, {ID: "wrong", Role: mvm.RoleWorker, Egress: []string{"nonsense"}}}
			tenant, err := tx.Tenant(id)
			tenant.Closed = id == "closed"
			err = errors.Join(err, tx.PutTenant(tenant))
			for k, p := range pools {
				err = errors.Join(err, tx.PutPool(mvm.Pool{Tenant: id, Spec: p}), tx.PutInstance(mvm.Instance{
					ID: fmt.Sprintf("i-%08x", 16*n+k), Tenant: id, Pool: p.ID, Role: p.Role, Key: "ann", State: mvm.StateReady, Offset: mvm.FirstInstanceOffset + k}))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := nets.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, tenant := range fake.Config().Tenants {
		for _, i := range tenant.Instances {
			got = append(got, fmt.Sprintf("%s %d: gateway %t, alone %t, egress %d of %d", tenant.ID, i.Offset, i.Gateway, i.Alone, i.Egress, len(tenant.Egress)))
		}
	}
	want := []string{
		"closed 3: gateway true, alone false, egress 0 of 1", "closed 4: gateway false, alone true, egress 1 of 1",
		"closed 5: gateway false, alone false, egress 0 of 1", "closed 6: gateway false, alone true, egress 0 of 1",
		"open 3: gateway true, alone false, egress 0 of 0", "open 4: gateway false, alone false, egress 0 of 0",
		"open 5: gateway false, alone false, egress 0 of 0", "open 6: gateway false, alone false, egress 0 of 0"}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, taken := range []bool{false, true, true, false} {
		names.taken = taken
		if err := nets.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, tenant := range fake.Config().Tenants {
			if want := tenant.Closed && !taken; tenant.Resolver != want {
				t.Errorf("port taken %t: tenant %s has the resolver: %t, want %t", taken, tenant.ID, tenant.Resolver, want)
			}
		}
		if !names.followed.Equal(fake.Config()) {
			t.Errorf("port taken %t: the resolver follows %+v, and %+v is applied", taken, names.followed, fake.Config())
		}
	}
}

// answers are a Resolver whose port may be taken, which shows when it is to listen.
type answers struct {
	taken, failed bool
	followed      network.Config
}

func (a *answers) Follow(cfg network.Config) { a.followed = cfg.Clone() }
func (a *answers) Serves(string) bool        { return !a.failed }

func (a *answers) Applied(context.Context) bool {
	was := a.failed
	a.failed = a.taken
	return was != a.failed
}

// TestLookRepairs: a look applies what was applied last, also where nothing changed.
func TestLookRepairs(t *testing.T) {
	nets, fake, st := newNetworks(t)
	putTenant(t, st, "acme", 1)
	for range 2 {
		if err := nets.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := fake.Calls(fakenet.OpApply); got != 2 {
		t.Errorf("2 looks applied the networks %d times", got)
	}
	if c := fake.Config(); len(c.Tenants) != 1 || c.Tenants[0].Subnet != mvm.DefaultSubnet(1) {
		t.Errorf("the kernel has %+v", c)
	}
}
