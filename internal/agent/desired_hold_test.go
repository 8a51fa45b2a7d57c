package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/sys"
)

// pruning is a state with one tenant that lets no other be, for the host of newHost.
func pruning(node, tenant string) []byte {
	return fmt.Appendf(nil, `{"schema_version":1,"node_id":%q,"prune_unknown_tenants":true,"tenants":[{"tenant_id":%q,"pools":[]}]}`, node, tenant)
}

// holding is a host named node-1 that reconciles, on a virtual clock.
func holding(t *testing.T, test func(t *testing.T, h *host)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.nodeID, h.every = "node-1", 30*time.Second
		h.listen = func(*sys.Folder, string) (net.Listener, error) { return newDeafListener(), nil }
		h.start()
		defer h.stop()
		test(t, h)
	})
}

func (h *host) keep(state []byte) error {
	_, err := h.a.Reconcile(context.Background(), mvm.ReconcileRequest{State: state, Keep: true, NoWait: true}, nil)
	return err
}

// destroyed are the tenants that were destroyed, in order.
func (h *host) destroyed() string {
	var out []string
	for _, e := range h.events() {
		if e.Action == mvm.TenantDestroyed {
			out = append(out, e.Tenant)
		}
	}
	return strings.Join(out, " ")
}

// The host is never held to a state that was overtaken while the loop waited for its turn.
func TestAnOvertakenStateIsNotHeld(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		if err := h.keep(pruning("node-1", "first")); err != nil {
			t.Fatal(err)
		}
		slow, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		h.onSeam(func(p string) error {
			if p == "apply.create-tenant:before" {
				once.Do(func() { close(slow); <-goOn })
			}
			return nil
		})
		errs := make(chan error, 2)
		go func() { errs <- h.keep(pruning("node-1", "second")) }()
		<-slow
		go func() { errs <- h.keep(pruning("node-1", "third")) }()
		settled(time.Minute) // the loop's turn comes meanwhile: it stands behind the third
		close(goOn)
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		settled(2 * time.Minute)
		if got := h.destroyed(); got != "first second" {
			t.Errorf("destroyed were %q, want nothing of the newest state", got)
		}
	})
}

// Once a state is forgotten nothing more is done for it.
func TestForgetWaitsForItsTurn(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		slow, goOn := make(chan struct{}), make(chan struct{})
		h.onSeam(func(p string) error {
			if p == "apply.create-tenant:before" {
				close(slow)
				<-goOn
			}
			return nil
		})
		kept, forgot := make(chan error, 1), make(chan error, 1)
		go func() { kept <- h.keep(pruning("node-1", "first")) }()
		<-slow
		go func() {
			_, err := h.a.Reconcile(context.Background(), mvm.ReconcileRequest{Forget: true}, nil)
			forgot <- err
		}()
		synctest.Wait()
		select {
		case err := <-forgot:
			t.Errorf("it was forgotten (%v) while it was being applied", err)
		default:
		}
		close(goOn)
		if err := <-kept; err != nil {
			t.Fatal(err)
		}
		settled(2 * time.Minute)
	})
}

// A tenant with something that nothing may stop by itself is not pruned.
func TestPruneSparesTenants(t *testing.T) {
	for name, change := range map[string]func(*mvm.PoolSpec){
		"critical": func(s *mvm.PoolSpec) { s.Critical = true },
		"pinned":   func(s *mvm.PoolSpec) { s.Pinned = true },
	} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *host) {
				spec := worker("workers")
				change(&spec)
				h.makePool(spec)
				if err := h.keep(pruning("node-1", "other")); err != nil {
					t.Fatal(err)
				}
				settled(time.Minute)
				if got := h.destroyed(); got != "" {
					t.Errorf("destroyed were %q", got)
				}
				h.change("workers", func(s *mvm.PoolSpec) { s.Critical, s.Pinned = false, false })
				settled(time.Minute)
				if got := h.destroyed(); got != "acme" {
					t.Errorf("destroyed were %q, want it gone once it is no longer %s", got, name)
				}
			})
		})
	}
}

// What keeps one tenant from the state keeps no other from it, and is told once.
func TestOneTenantsTroubleHoldsUpNoOther(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		secret := func(v string) {
			t.Helper()
			if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte(v)}); err != nil {
				t.Fatal(err)
			}
		}
		h.makePool(worker("workers"))
		if _, err := h.a.CreateTenant(ctx(t), mvm.TenantSpec{ID: "beta"}); err != nil {
			t.Fatal(err)
		}
		secret("one")
		state, err := h.a.Desired(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.keep(state); err != nil {
			t.Fatal(err)
		}
		problem := func(id string) string {
			t.Helper()
			got, _, err := h.a.Tenant(ctx(t), id)
			if err != nil {
				t.Fatal(err)
			}
			return got.Problem
		}
		secret("two")
		pinned := true
		if _, err := h.a.UpdateTenant(ctx(t), "beta", mvm.TenantUpdate{Pinned: &pinned}); err != nil {
			t.Fatal(err)
		}
		settled(2 * time.Minute)
		if got, _, err := h.a.Tenant(ctx(t), "beta"); err != nil || got.Pinned || got.Problem != "" {
			t.Errorf("got %+v %v, want beta held to the state", got, err)
		}
		if got := problem("acme"); !strings.Contains(got, "do not match secrets_hash") {
			t.Errorf("acme's problem is %q", got)
		}
		if n := strings.Count(h.logged(), "is not held to the desired state"); n != 1 {
			t.Errorf("it was logged %d times, want once:\n%s", n, h.logged())
		}
		if err := h.keep(state); !mvm.IsKind(err, mvm.KindState) {
			t.Errorf("pushed anew: %v, want it refused", err)
		}
		secret("one")
		settled(time.Minute)
		if got := problem("acme"); got != "" {
			t.Errorf("acme's problem is still %q", got)
		}
	})
}

// A state is applied once only where that lasts.
func TestOnceIsRefusedWhereTheHostIsHeld(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		once := func(state []byte, dry bool) error {
			_, err := h.a.Reconcile(context.Background(), mvm.ReconcileRequest{State: state, NoWait: true, Dry: dry}, nil)
			return err
		}
		if err := once(state("node-1", "before"), false); err != nil {
			t.Fatalf("on a host that is not held: %v", err)
		}
		if err := h.keep(state("node-1", "kept")); err != nil {
			t.Fatal(err)
		}
		var refused *mvm.Error
		if err := once(state("node-1", "other"), false); !errors.As(err, &refused) || refused.Kind != mvm.KindState || !strings.Contains(refused.Fix, "--keep") {
			t.Errorf("another: %v, want it refused with a fix", err)
		}
		if err := once(state("node-1", "other"), true); err != nil {
			t.Errorf("a dry run: %v", err)
		}
		if err := once(state("node-1", "kept"), false); err != nil {
			t.Errorf("the same: %v", err)
		}
		if _, err := h.a.Reconcile(context.Background(), mvm.ReconcileRequest{Forget: true}, nil); err != nil {
			t.Fatal(err)
		}
		if err := once(state("node-1", "other"), false); err != nil {
			t.Errorf("after forget: %v", err)
		}
	})
}

// A tenant that can't be pruned keeps no other from what the state says of it.
func TestAFailedPruneKeepsNobodyFromItsOwn(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		h.instance()
		settled(11 * time.Minute) // the override of who did that by hand ends
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpDestroy {
				return errOnPurpose
			}
			return nil
		})
		err := h.keep(pruning("node-1", "new"))
		if err == nil || !strings.Contains(err.Error(), "prune tenant acme") {
			t.Errorf("got %v, want that acme can't be pruned", err)
		}
		if _, _, err := h.a.Tenant(ctx(t), "new"); err != nil {
			t.Errorf("new: %v", err)
		}
		h.failing(func(fake.Op, string) error { return nil })
	})
}
