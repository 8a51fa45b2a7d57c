package agent_test

import (
	"errors"
	"mvm/internal/store"
	"strings"
	"testing"
	"time"

	"mvm"
)

// TestClosedTenants: a new tenant is closed, and a user's instance alone until its pool has
// peers. Whoever had a tenant before keeps it open and is told.
func TestClosedTenants(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.makePool(worker("workers"))
		if _, err := h.a.BuildPool(ctx(t), "acme", "workers", nil); err != nil {
			t.Fatal(err)
		}
		i, err := h.a.CreateInstance(ctx(t), "acme", "workers", "ann")
		if err != nil {
			t.Fatal(err)
		}
		want := func(when string, closed, alone bool) {
			t.Helper()
			n := h.net.Config().Tenants[0]
			if n.Closed != closed {
				t.Errorf("%s: closed %t, want %t", when, n.Closed, closed)
			}
			for _, of := range n.Instances {
				if of.ID == i.ID && of.Alone != alone {
					t.Errorf("%s: the user's instance is alone: %t, want %t", when, of.Alone, alone)
				}
			}
		}
		told := func() (events, doctor, pool int) {
			t.Helper()
			for _, e := range h.events() {
				if strings.Contains(e.Detail, "network is open") {
					events++
				}
			}
			found, err := h.a.Doctor(ctx(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				if strings.Contains(f.What, "network is open") {
					doctor++
				}
			}
			p, err := h.a.Pool(ctx(t), "acme", "workers")
			if err != nil {
				t.Fatal(err)
			}
			return events, doctor, len(p.Warnings)
		}
		want("new", true, true)
		if e, d, p := told(); e+d+p != 0 {
			t.Errorf("a new tenant is told of: %d events, %d of doctor, %d of the pool", e, d, p)
		}
		h.change("workers", func(s *mvm.PoolSpec) { s.Peers = true })
		want("with peers", true, false)
		h.change("workers", func(s *mvm.PoolSpec) { s.Peers = false })
		want("without peers", true, true)
		for _, bad := range []string{"nonsense", "169.254.169.254", "fd00::/8", "10.240.9.0/24"} {
			p, _ := h.a.Pool(ctx(t), "acme", "workers")
			p.Spec.Egress = []string{bad}
			if _, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &p.Spec}); !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("egress %s: %v", bad, err)
			}
			p.Spec.ID = "other"
			if _, err := h.a.CreatePool(ctx(t), "acme", p.Spec); !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("egress %s of a new pool: %v", bad, err)
			}
		}
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Closed: new(false)}); err != nil { // as an earlier version made it
			t.Fatal(err)
		}
		want("from before", false, false)
		for n := range 2 { // told once
			h.stop()
			h.a = h.start()
			want("after a start", false, false)
			if e, d, p := told(); e != 1 || d != 1 || p != 1 {
				t.Errorf("start %d, a tenant from before: %d events, %d of doctor, %d of the pool, want one each", n+1, e, d, p)
			}
		}
		if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Closed: new(true)}); err != nil {
			t.Fatal(err)
		}
		want("closed", true, true)
		if _, d, p := told(); d+p != 0 {
			t.Errorf("a closed tenant is told of: %d of doctor, %d of the pool", d, p)
		}
	})
}

// A closed tenant from before mvm answered its guests' questions for names is told, once, that
// they don't reach name servers elsewhere any more. A new one is not.
func TestDNSThatWasClosedIsTold(t *testing.T) {
	h := newHost(t)
	h.start()
	h.plain()
	told := func(when string, want int) {
		t.Helper()
		h.stop()
		h.start()
		got := 0
		for _, e := range h.events() {
			if e.Tenant == "acme" && strings.Contains(e.Detail, "port 53 of other addresses is closed") {
				got++
			}
		}
		if got != want {
			t.Errorf("%s: told %d times, want %d", when, got, want)
		}
	}
	told("a new tenant", 0)
	err := h.st.Update(func(tx *store.Tx) error { // another, of which nothing is noted
		of, err := tx.Tenant("acme")
		of.Created = of.Created.Add(-time.Hour)
		return errors.Join(err, tx.PutTenant(of))
	})
	if err != nil {
		t.Fatal(err)
	}
	told("from before", 1)
	told("from before, again", 1)
}
