package agent_test

import (
	"context"
	"slices"
	"testing"

	"mvm"
)

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
