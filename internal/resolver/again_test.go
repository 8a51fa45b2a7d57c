package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"mvm/internal/network"
)

// closes forgets what is open, as a change of egress does, and has the next openings fail or not.
func (w *world) closes(fails error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.admitted)
	w.fails = fails
}

func (w *world) wantOpen(when string, want ...string) {
	w.t.Helper()
	if open, _, _ := w.open(); !slices.Equal(open, want) {
		w.t.Errorf("%s: open %v, want %v", when, open, want)
	}
}

// TestOpeningAgainFails: what could not be opened again is not taken as open. It is when the
// guest asks, and by the next try.
func TestOpeningAgainFails(t *testing.T) {
	const name, web = "a.example.com.", "93.184.215.14"
	away := errors.New("mvm hostd is away")
	change := func(w *world) { w.egress("a.example.com", "b.example.com") }
	woke := func(w *world) { w.r.Woke(t.Context(), "acme", "i-00000003") }
	for what, again := range map[string]func(*world){"a change of egress": change, "a wake": woke} {
		w := newWorld(t, "a.example.com")
		w.up.says(with(address(name, 60, web)))
		w.ask(name, dnsmessage.TypeA)
		w.wantOpen(what+": at first", web)
		w.closes(away)
		again(w)
		if m := w.ask(name, dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("%s: asked while nothing can be opened: %+v", what, m)
		}
		w.closes(nil)
		if m := w.ask(name, dnsmessage.TypeA); len(m.Answers) != 1 {
			t.Errorf("%s: asked when it can be opened: %+v", what, m)
		}
		w.wantOpen(what+": asked", web)
		w.closes(nil)
		w.r.Applied(t.Context())
		w.wantOpen(what+": the next try", web)
		w.closes(nil)
		w.r.Applied(t.Context())
		w.wantOpen(what + ": nothing is left to try")
	}
}

// TestAskedDuringAChange: what a guest asks for between a change of egress and its being in
// force is open after it.
func TestAskedDuringAChange(t *testing.T) {
	w := newWorld(t, "a.example.com")
	w.up.says(with(address("b.example.com.", 60, "93.184.215.15")))
	tenant := &w.cfg.Tenants[0]
	tenant.Egress = slices.Clone(tenant.Egress)
	tenant.Egress[0] = append(slices.Clone(tenant.Egress[0]), tenant.Egress[0][0])
	tenant.Egress[0][1].Name = "b.example.com"
	w.r.Follow(w.cfg)
	w.ask("b.example.com.", dnsmessage.TypeA)
	w.wantOpen("asked", "93.184.215.15")
	w.closes(nil)
	w.r.Applied(t.Context())
	w.wantOpen("in force", "93.184.215.15")
}

// TestMostAddresses: a guest that has as many open as it may can have these for longer.
func TestMostAddresses(t *testing.T) {
	w := newWorld(t, "*.example.com")
	ask := func(n int, ttl uint32) dnsmessage.RCode {
		name := fmt.Sprintf("n%d.example.com.", n)
		var all []dnsmessage.Resource
		for k := range network.MaxAdmissions / 4 {
			all = append(all, address(name, ttl, fmt.Sprintf("93.184.%d.%d", n, k)))
		}
		w.up.says(with(all...))
		return w.ask(name, dnsmessage.TypeA).RCode
	}
	for n, want := range []dnsmessage.RCode{0, 0, 0, 0, dnsmessage.RCodeServerFailure} {
		if code := ask(n, 60); code != want {
			t.Errorf("name %d: %v, want %v", n, code, want)
		}
	}
	if code := ask(0, 3600); code != 0 {
		t.Errorf("a name that is open, for longer: %v", code)
	}
}

// TestCancelledListen: a try that was cancelled says nothing about the port.
func TestCancelledListen(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tenants[0].ID = "zeta"
	w.r.Follow(w.cfg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.taken = ctx.Err()
	if w.r.Applied(ctx) || !w.r.Serves("zeta") || len(w.r.Findings()) > 0 {
		t.Errorf("serves %t, findings %+v", w.r.Serves("zeta"), w.r.Findings())
	}
}

// TestLettersBeyondASCII: a letter whose lower case is ASCII makes another name.
func TestLettersBeyondASCII(t *testing.T) {
	w := newWorld(t, "api.kube.com")
	w.up.says(with(address("api.kube.com.", 60, "93.184.215.14")))
	if m := w.ask("api.\u212aube.com.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeRefused || len(w.up.questions()) > 0 {
		t.Errorf("got %+v, want it refused", m)
	}
}
