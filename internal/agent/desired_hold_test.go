package agent_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
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
