package netstate_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"mvm"
	"mvm/internal/netstate"
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
	return netstate.New(n, st), n, st
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
