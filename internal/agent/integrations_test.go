package agent_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// withIntegrations gives the pool of workers two integrations, one of them critical.
func (h *host) withIntegrations() mvm.Instance {
	h.t.Helper()
	i := h.instance()
	spec := worker("workers")
	spec.Integrations = []mvm.Integration{{Name: "telegram", CheckpointCmd: "true", RestoreCmd: "true", Critical: true}, {Name: "cache", CheckpointCmd: "true"}}
	if _, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec}); err != nil {
		h.t.Fatal(err)
	}
	return i
}

// states tells of an instance's integrations as its record has them.
func (h *host) states(id string) string {
	h.t.Helper()
	var out []string
	for _, s := range h.get(id).Integrations {
		out = append(out, strings.TrimSuffix(fmt.Sprintf("%s %s %s", s.Name, s.Status, s.Error), " "))
	}
	return strings.Join(out, ", ")
}

func (h *host) awaitStates(id, want string) {
	h.t.Helper()
	waitUntil(h.t, func() bool { return h.states(id) == want })
}

func TestCriticalIntegrationKeepsAwake(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.withIntegrations()
	h.host.Behave(i.ID, fake.Behavior{FailedSaves: []string{"telegram"}})
	if err := h.try(i.ID, mvm.OpSleep); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "checkpoint of telegram failed") {
		t.Errorf("sleep: %v, want refused by policy, with the guest's reason", err)
	}
	if got := h.get(i.ID); got.State != mvm.StateRunning {
		t.Errorf("%s, want running", got.State)
	}
	if n := count(h.actions("acme"), mvm.TransitionDeferred); n != 1 {
		t.Errorf("%d deferred transitions in the audit log, want 1", n)
	}
	h.awaitStates(i.ID, "telegram active, cache active") // the sleep was called off: both go on
	h.host.Behave(i.ID, fake.Behavior{FailedSaves: []string{"cache"}})
	h.do(i.ID, mvm.OpSleep)
	if got, want := h.states(i.ID), "telegram paused, cache error checkpoint failed"; got != want {
		t.Errorf("asleep: %s, want %s", got, want)
	}
	h.host.Behave(i.ID, fake.Behavior{NackWake: true})
	h.do(i.ID, mvm.OpWake)
	h.awaitStates(i.ID, "telegram error restore failed, cache error restore failed")
	h.host.Behave(i.ID, fake.Behavior{FailedSaves: []string{"telegram"}})
	if _, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpSleep, Force: true}, nil); err != nil {
		t.Errorf("forced sleep: %v", err)
	}
}

func TestIntegrationsOfColdBootAndStats(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.withIntegrations()
	h.do(i.ID, mvm.OpStop)
	h.do(i.ID, mvm.OpStart)
	h.awaitStates(i.ID, "telegram active, cache active")
	h.do(i.ID, mvm.OpSleep)
	h.do(i.ID, mvm.OpWake)
	h.awaitStates(i.ID, "telegram active, cache active")
	s, err := h.a.Stats(ctx(t), mvm.Address{Instance: i.ID})
	if err != nil || len(s.Integrations) != 2 || !s.Integrations[0].Critical || s.Integrations[0].LastCheckpointAt.IsZero() {
		t.Errorf("stats: %+v, %v", s.Integrations, err)
	}
}

// TestSecretsAreListed: of a secret all is told but its value, and what keeps its value
// keeps the rest.
func TestSecretsAreListed(t *testing.T) {
	h := newHost(t)
	h.start()
	h.instance()
	set := func(v map[string][]byte) {
		t.Helper()
		if _, err := h.a.SetSecrets(ctx(t), "acme", v); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string][]byte{"old": []byte("1"), "gone": []byte("22")})
	before := time.Now()
	set(map[string][]byte{"old": []byte("1"), "new": []byte("333"), "gone": nil})
	if _, err := h.a.RotateSecrets(ctx(t), "acme"); err != nil {
		t.Fatal(err)
	}
	ten, _, err := h.a.Tenant(ctx(t), "acme")
	if err != nil {
		t.Fatal(err)
	}
	n := slices.IndexFunc(ten.Secrets, func(s mvm.SecretInfo) bool { return s.Name == "new" })
	if len(ten.Secrets) != 2 || n != 0 {
		t.Fatalf("secrets %+v, want new and old", ten.Secrets)
	}
	fresh, kept := ten.Secrets[0], ten.Secrets[1]
	if fresh.Generation != 2 || fresh.Bytes != 3 || fresh.SetAt.Before(before) {
		t.Errorf("new: %+v", fresh)
	}
	if kept.Generation != 1 || kept.Bytes != 1 || !kept.SetAt.Before(before) || ten.SecretsGeneration != 3 {
		t.Errorf("old: %+v with the tenant at %d", kept, ten.SecretsGeneration)
	}
}
