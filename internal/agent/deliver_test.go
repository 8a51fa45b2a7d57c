package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// withMute makes three running instances, of which the first has a guest that does not
// answer when it is given its configuration.
func (h *host) withMute() []mvm.Instance {
	h.t.Helper()
	h.makePool(desired(worker("workers"), 3, 0, 0))
	settled(time.Minute)
	all := h.all("workers")
	if len(all) != 3 {
		h.t.Fatalf("got %d instances, want 3", len(all))
	}
	h.host.Behave(all[0].ID, fake.Behavior{Silent: true, Only: []string{"Configure"}})
	return all
}

// One mute guest keeps no other waiting for its secrets.
func TestAMuteGuestDelaysNobodysSecrets(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		all := h.withMute()
		done := make(chan error, 1)
		go func() {
			_, err := h.a.SetSecrets(context.Background(), "acme", map[string][]byte{"token": []byte("one")})
			done <- err
		}()
		synctest.Wait() // no time passes: the mute one is still waited for
		for _, i := range all[1:] {
			if got := h.get(i.ID).SecretsGeneration; got != 1 {
				t.Errorf("%s has generation %d of the secrets, want 1", i.ID, got)
			}
		}
		if err := <-done; !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("got %v, want that one guest did not take it", err)
		}
	})
}

// A desired state is on record at once, whatever the guests do; they get it in the end.
func TestAMuteGuestDelaysNoState(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		all := h.withMute()
		doc, err := h.a.Desired(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		scoped := strings.Replace(string(doc), `"secret_scopes": []`, `"secret_scopes": [{"integration": "telegram", "keys": ["token"]}]`, 1)
		if scoped == string(doc) {
			t.Fatalf("the state has no scopes to change: %s", doc)
		}
		if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte("one")}); !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Fatal(err)
		}
		began := time.Now()
		if err := h.keep([]byte(scoped)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the state was on record after %s, want at once", took)
		}
		h.host.Behave(all[0].ID, fake.Behavior{})
		settled(15 * time.Second)
		for _, i := range all {
			if got := h.exec(i.ID, "cat", "/run/secrets/telegram/token"); got != "one" {
				t.Errorf("%s has %q", i.ID, got)
			}
		}
	})
}

// TestSecretsWhileASleepIsTakenBack: secrets that reach a guest while its services are told
// that its sleep came to nothing stay on its record.
func TestSecretsWhileASleepIsTakenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		i := h.instance()
		h.host.Behave(i.ID, fake.Behavior{Suspends: true, Delay: time.Second, Only: []string{"Settle"}})
		h.do(i.ID, mvm.OpStop)
		// The guest says as it boots that it has a service that can hold still. It is started by a
		// person, or reconcile could put it to sleep at once: nothing asks for it.
		h.byHand(i.ID, mvm.OpStart)
		h.onSeam(func(point string) error {
			if point == "sleep.snapshot:before" {
				return errors.New("no")
			}
			return nil
		})
		slept := make(chan error, 1)
		go func() { slept <- h.try(i.ID, mvm.OpSleep) }()
		time.Sleep(time.Second / 2)
		gen, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte("one")})
		if err != nil {
			t.Error(err)
		}
		select {
		case err := <-slept:
			t.Fatalf("the sleep ended before the secrets came: %v", err)
		default:
		}
		if err := <-slept; err == nil {
			t.Error("the sleep was not taken back")
		}
		if got := h.get(i.ID); got.SecretsGeneration != gen || got.State != mvm.StateRunning {
			t.Errorf("it is %s with secrets generation %d, want running with %d", got.State, got.SecretsGeneration, gen)
		}
	})
}
