package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/audit"
	"mvm/internal/store"
)

// What guests can cause without end is recorded up to a bound that does not let them
// push out what others did, and the number of what was left out is told.
func TestGuestsDoNotCrowdOutTheAuditLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		a := agent.New(agent.Options{Store: st, Log: slog.New(slog.DiscardHandler)})
		for range 24 * 3600 { // a guest that is refused every second for a day
			a.Record(mvm.Event{Action: mvm.WakeRefused, Tenant: "hostile", Detail: "no"})
			time.Sleep(time.Second)
		}
		a.Record(mvm.Event{Action: mvm.WakeRefused, Tenant: "other"})
		var last mvm.Event
		n, others := 0, 0
		err = a.Events(context.Background(), mvm.EventFilter{}, func(e mvm.Event) error {
			if e.Tenant == "other" {
				others++
				return nil
			}
			n, last = n+1, e
			return nil
		})
		if err != nil || n > 400 || n < 250 || others != 1 {
			t.Errorf("a day of refusals made %d entries, and another tenant's %d: %v; want about 300, and 1", n, others, err)
		}
		if !strings.Contains(last.Detail, "and 299 more like it") {
			t.Errorf("the last entry says %q, want how many were left out", last.Detail)
		}
	})
}

// An entry is kept as long as the config says, and the log is intact after trimming.
func TestEventsAreKeptByDays(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for days := 10; days > 0; days-- {
		err := st.Update(func(tx *store.Tx) error {
			_, err := tx.AppendEvent(mvm.Event{Time: time.Now().Add(-time.Duration(days)*24*time.Hour - time.Minute), Action: mvm.PoolBuilt, Detail: fmt.Sprint(days)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	a := agent.New(agent.Options{Store: st, Log: slog.New(slog.DiscardHandler), AuditRetention: 7 * 24 * time.Hour})
	if err := a.TrimNow(); err != nil {
		t.Fatal(err)
	}
	var kept []string
	err = a.Events(context.Background(), mvm.EventFilter{}, func(e mvm.Event) error { kept = append(kept, e.Detail); return nil })
	if got := strings.Join(kept, " "); err != nil || got != "6 5 4 3 2 1" {
		t.Errorf("kept entries of %s days ago, %v; want 6 to 1", got, err)
	}
	r, err := a.VerifyEvents(context.Background(), "")
	if err != nil || !r.Intact || r.First != 5 {
		t.Errorf("after trimming: %+v, %v", r, err)
	}
	noted := audit.Mark{Seq: 2, Hash: strings.Repeat("0", 64)}
	if r, err := a.VerifyEvents(context.Background(), noted.String()); err != nil || !r.Intact || !r.ExpectTrimmed {
		t.Errorf("an entry that was trimmed: %+v, %v; want that there is nothing to compare", r, err)
	}
	if _, err := a.VerifyEvents(context.Background(), "2:xyz"); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a bad mark: %v", err)
	}
}

// However many of the last events are asked for, they are read in pages.
func TestTailIsRead(t *testing.T) {
	h := newHost(t)
	h.start()
	h.instance()
	for _, c := range []struct {
		f    mvm.EventFilter
		want []mvm.Action
	}{
		{mvm.EventFilter{Tail: 1, Actions: []mvm.Action{mvm.TenantCreated}}, []mvm.Action{mvm.TenantCreated}},
		{mvm.EventFilter{Tail: 1 << 60, Actions: []mvm.Action{mvm.TenantCreated, mvm.PoolCreated}}, []mvm.Action{mvm.TenantCreated, mvm.PoolCreated}},
		{mvm.EventFilter{Tail: 1, Actions: []mvm.Action{mvm.TenantCreated, mvm.PoolCreated}}, []mvm.Action{mvm.PoolCreated}},
		{mvm.EventFilter{Tail: 5, Actions: []mvm.Action{mvm.WakeRefused}}, nil},
	} {
		var got []mvm.Action
		err := h.a.Events(ctx(t), c.f, func(e mvm.Event) error { got = append(got, e.Action); return nil })
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, %v, want %v", c.f, got, err, c.want)
		}
	}
}

// A follower whose filter chooses nothing does not read the log again for each event,
// and sees the first that it does choose; followers are bounded.
func TestFollowers(t *testing.T) {
	h := newHost(t)
	h.start()
	h.instance()
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	got := make(chan mvm.Event)
	ended := make(chan error)
	go func() {
		ended <- h.a.Events(c, mvm.EventFilter{Follow: true, Tail: 10, Actions: []mvm.Action{mvm.SecretsRotated}}, func(e mvm.Event) error { got <- e; return nil })
	}()
	if _, err := h.a.RotateSecrets(ctx(t), "acme"); err != nil {
		t.Fatal(err)
	}
	if e := <-got; e.Action != mvm.SecretsRotated {
		t.Errorf("got %+v", e)
	}
	follow := func(tenant string) error {
		c, cancel := context.WithCancel(c)
		t.Cleanup(cancel)
		err := make(chan error, 1)
		first := make(chan struct{}, 1000)
		go func() {
			err <- h.a.Events(c, mvm.EventFilter{Follow: true, Tenant: tenant}, func(mvm.Event) error { first <- struct{}{}; return nil })
		}()
		select {
		case err := <-err:
			return err
		case <-first:
			t.Cleanup(func() { cancel(); <-err })
			return nil
		}
	}
	for range 16 {
		if err := follow("acme"); err != nil {
			t.Fatal(err)
		}
	}
	if err := follow("acme"); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("the tenant's 17th follower: %v, want it refused", err)
	}
	for range 31 { // beside the one from above
		if err := follow(""); err != nil {
			t.Fatalf("a tenant keeps others away: %v", err)
		}
	}
	if err := follow(""); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("the 33rd follower of all events: %v, want it refused", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
