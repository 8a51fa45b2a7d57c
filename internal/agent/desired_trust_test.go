package agent_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/declare"
	states "mvm/internal/desired"
)

// offered is a client of the agent's API on a socket of its own.
func (h *host) offered() *api.Client {
	h.t.Helper()
	socket := filepath.Join(h.run, "api.sock")
	ln, err := api.Listen(socket, -1)
	if err != nil {
		h.t.Fatal(err)
	}
	srv, served := api.NewServer(h.a, api.ServerConfig{Group: -1, Log: slog.New(slog.DiscardHandler)}), make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c := api.Dial(socket)
	h.t.Cleanup(func() {
		c.Close()
		if err := errors.Join(srv.Close(context.Background()), <-served); err != nil {
			h.t.Error(err)
		}
		_ = ln.Close()
	})
	return c
}

func stateKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// trusting is a host called node-1 that believes the key of seed 1.
func trusting(t *testing.T) *host {
	h := newHost(t)
	h.nodeID = "node-1"
	h.trust = declare.Trust{Keys: func() (states.Verifier, error) {
		return states.Verifier{Keys: []ed25519.PublicKey{stateKey(1).Public().(ed25519.PublicKey)}}, nil
	}}
	return h
}

// state is a document with one tenant, for the node.
func state(node, tenant string) []byte {
	return fmt.Appendf(nil, `{"schema_version":1,"node_id":%q,"tenants":[{"tenant_id":%q,"pools":[]}]}`, node, tenant)
}

// signed is a state that the key of the seed signed at the time.
func signed(t *testing.T, seed byte, sequence int64, at time.Time, doc []byte) []byte {
	t.Helper()
	d, err := states.Decode(doc)
	if err != nil {
		t.Fatal(err)
	}
	b, err := states.Sign(stateKey(seed), doc, states.Claims{NodeID: d.NodeID, Sequence: sequence, IssuedAt: at, ExpiresAt: at.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func push(c *api.Client, state []byte) error {
	_, err := c.Reconcile(context.Background(), mvm.ReconcileRequest{State: state, Keep: true}, nil)
	return err
}

// tenants are the names of the tenants that the host has.
func tenants(t *testing.T, c *api.Client) string {
	t.Helper()
	all, err := c.Tenants(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range all {
		names = append(names, n.ID)
	}
	return strings.Join(names, " ")
}

func TestAPushedStateThatIsNotTheRightOneIsRefused(t *testing.T) {
	h := trusting(t)
	h.trust.SignedOnly = true
	h.start()
	c, now := h.offered(), time.Now()
	good := signed(t, 1, 7, now, state("node-1", "good"))
	if err := push(c, good); err != nil {
		t.Fatal(err)
	}
	if err := push(c, good); err != nil {
		t.Errorf("the same state once more: %v", err)
	}
	altered := signed(t, 1, 8, now, state("node-1", "bad"))
	altered = bytes.Replace(altered, []byte(`"sequence": 8`), []byte(`"sequence": 9`), 1)
	for name, refused := range map[string]struct {
		state []byte
		want  string
	}{
		"unsigned":               {state("node-1", "bad"), "it is not signed"},
		"of another node":        {signed(t, 1, 8, now, state("node-2", "bad")), "it is for another node"},
		"of an unknown key":      {signed(t, 2, 8, now, state("node-1", "bad")), "its key is not trusted"},
		"altered":                {altered, "its signature does not fit"},
		"expired":                {signed(t, 1, 8, now.Add(-2*time.Hour), state("node-1", "bad")), "it has expired"},
		"of the future":          {signed(t, 1, 8, now.Add(time.Hour), state("node-1", "bad")), "it is issued in the future"},
		"a replay":               {signed(t, 1, 6, now, state("node-1", "bad")), "it is not newer"},
		"another of that number": {signed(t, 1, 7, now, state("node-1", "bad")), "another state with sequence 7"},
	} {
		err := push(c, refused.state)
		if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), refused.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", name, err, refused.want)
		}
	}
	if got := tenants(t, c); got != "good" {
		t.Errorf("got tenants %q, want what was refused to have changed nothing", got)
	}
}

func TestWhatWasAcceptedIsKnownAfterARestart(t *testing.T) {
	h := trusting(t)
	a, now := h.start(), time.Now()
	ctx := context.Background()
	give := func(b []byte, dry bool) error {
		_, err := a.Reconcile(ctx, mvm.ReconcileRequest{State: b, Dry: dry}, nil)
		return err
	}
	if err := give(signed(t, 1, 9, now, state("node-1", "dry")), true); err != nil {
		t.Fatal(err)
	}
	if err := give(signed(t, 1, 8, now, state("node-1", "one")), false); err != nil {
		t.Fatalf("a dry run is not remembered, but: %v", err)
	}
	h.stop()
	a = h.start()
	if err := give(signed(t, 1, 7, now, state("node-1", "old")), false); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("got %v, want the older state refused", err)
	}
	if err := give(state("node-1", "plain"), false); err != nil {
		t.Errorf("an unsigned state outside production: %v", err)
	}
	h.stop()
	h.trust.Keys = func() (states.Verifier, error) { return states.Verifier{}, nil }
	a = h.start()
	if err := give(signed(t, 1, 10, now, state("node-1", "new")), false); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("got %v, want the state of a key that was withdrawn refused", err)
	}
}

// Of two states that come at once the older does not win by being slow.
func TestAStateThatWasOvertakenIsRefused(t *testing.T) {
	h := trusting(t)
	now := time.Now()
	keys, arrived, goOn := h.trust.Keys, make(chan struct{}), make(chan struct{})
	first := true
	h.trust.Keys = func() (states.Verifier, error) {
		v, err := keys()
		if first {
			first = false
			// The slow one has read what was accepted last, and waits before it checks.
			defer func() { close(arrived); <-goOn }()
		}
		return v, err
	}
	a := h.start()
	slow := make(chan error, 1)
	go func() {
		_, err := a.Reconcile(context.Background(), mvm.ReconcileRequest{State: signed(t, 1, 5, now, state("node-1", "slow"))}, nil)
		slow <- err
	}()
	<-arrived
	if _, err := a.Reconcile(context.Background(), mvm.ReconcileRequest{State: signed(t, 1, 6, now, state("node-1", "fast"))}, nil); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := <-slow; !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "not newer") {
		t.Errorf("got %v, want the slow one refused", err)
	}
}
