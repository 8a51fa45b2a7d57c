package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// deployment is of tenant acme, with one pool.
func deployment(spec mvm.PoolSpec) mvm.Deployment {
	return mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme"}, Pools: []mvm.PoolSpec{spec}}
}

func (h *host) apply(d mvm.Deployment) error {
	h.t.Helper()
	within, cancel := context.WithTimeout(h.t.Context(), 10*time.Minute)
	defer cancel()
	_, err := h.a.Apply(within, d, mvm.ApplyOptions{}, nil)
	return err
}

// TestUnbuildableImage: while a pool's new image can't be built, what runs goes on with
// the old one and is not restarted, and every deployment says what is wrong.
func TestUnbuildableImage(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		spec := desired(worker("workers"), 2, 0, 0)
		spec.Policy.MinRunningSeconds = 60
		if err := h.apply(deployment(spec)); err != nil {
			t.Fatal(err)
		}
		settled(time.Hour)
		before := h.happened(mvm.InstanceStarted, mvm.InstanceStopped, mvm.TransitionDeferred)
		h.img.Fail(errors.New("no such luck"))
		spec.Flake = "builtin:other"
		for range 3 {
			if err := h.apply(deployment(spec)); err == nil || !strings.Contains(err.Error(), "no such luck") {
				t.Fatalf("deploy: %v, want it to say why the image is not built", err)
			}
			p, _ := h.a.Pool(ctx(t), "acme", "workers")
			if !strings.Contains(p.Problem, "no such luck") {
				t.Errorf("the pool's problem is %q, want why its image is not built", p.Problem)
			}
			settled(20 * time.Minute)
		}
		if now := h.happened(mvm.InstanceStarted, mvm.InstanceStopped, mvm.TransitionDeferred); now != before {
			t.Errorf("%d starts, stops and deferrals while the image can't be built, want none", now-before)
		}

		spec.Resources.MemMiB *= 2 // this needs no new image
		if err := h.apply(deployment(spec)); err == nil {
			t.Error("deploy of another size: no error, though the image is not built")
		}
		settled(time.Hour)
		for _, i := range h.all("workers") {
			if i.State != mvm.StateRunning || i.Res.MemMiB != spec.Resources.MemMiB {
				t.Errorf("%s is %s with %d MiB, want it running with the new size", i.ID, i.State, i.Res.MemMiB)
			}
		}
		if now := h.happened(mvm.InstanceStopped); now != 2 {
			t.Errorf("%d stops for another size, want one of each instance", now)
		}

		h.img.Fail(nil)
		if err := h.apply(deployment(spec)); err != nil {
			t.Fatal(err)
		}
		p, _ := h.a.Pool(ctx(t), "acme", "workers")
		for _, i := range h.all("workers") {
			if i.State != mvm.StateRunning || i.BuildID != p.Builds[0].ID || p.Problem != "" {
				t.Errorf("%s is %s on build %s (%q), want it running on %s", i.ID, i.State, i.BuildID, p.Problem, p.Builds[0].ID)
			}
		}
	})
}

// happened counts the events of these actions.
func (h *host) happened(which ...mvm.Action) (n int) {
	for _, e := range h.events() {
		for _, a := range which {
			if e.Action == a {
				n++
			}
		}
	}
	return n
}

// TestFailureIsForgotten: what a pool no longer asks for is no problem of it.
func TestFailureIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		spec := desired(worker("workers"), 1, 0, 0)
		good := deployment(spec)
		spec.Flake = "builtin:other"
		if err := h.apply(good); err != nil {
			t.Fatal(err)
		}
		h.img.Fail(errors.New("no such luck"))
		if err := h.apply(deployment(spec)); err == nil {
			t.Fatal("deploy of an image that can't be built: no error")
		}
		if err := h.apply(good); err != nil {
			t.Errorf("deploy of what was there before: %v", err)
		}
		if p, _ := h.a.Pool(ctx(t), "acme", "workers"); p.Problem != "" {
			t.Errorf("problem %q stays", p.Problem)
		}
	})
}

// TestUnknownImageIsRefused, before anything of it is on record.
func TestUnknownImageIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		good := desired(worker("workers"), 1, 0, 0)
		if err := h.apply(deployment(good)); err != nil {
			t.Fatal(err)
		}
		state, err := h.a.Desired(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		bad := good
		bad.Flake = "builtin:nothere"
		added := bad
		added.ID = "more"
		for what, try := range map[string]func() error{
			"deploy":        func() error { return h.apply(deployment(bad)) },
			"deploy of one": func() error { return h.apply(deployment(added)) },
			"dry run": func() error {
				_, err := h.a.Apply(ctx(t), deployment(bad), mvm.ApplyOptions{Dry: true}, nil)
				return err
			},
			"pool create": func() error { _, err := h.a.CreatePool(ctx(t), "acme", added); return err },
			"pool update": func() error {
				_, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &bad})
				return err
			},
			"desired state": func() error {
				other := strings.ReplaceAll(string(state), good.Flake, bad.Flake)
				_, err := h.a.Reconcile(ctx(t), mvm.ReconcileRequest{State: []byte(other)}, nil)
				return err
			},
		} {
			if err := try(); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "builtin:nothere") {
				t.Errorf("%s: %v, want the image refused", what, err)
			}
		}
		pools, err := h.a.Pools(ctx(t), "acme")
		if err != nil || len(pools) != 1 || pools[0].Spec.Flake != good.Flake {
			t.Errorf("pools are %+v, %v; want what was there", pools, err)
		}
	})
}

// TestPortThatIsTaken: the rest of a deployment is done, and each one says so until the
// port is served.
func TestPortThatIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.stop()
		pub := &takenPort{}
		pub.left.Store(1 << 20)
		h.pub = pub
		h.start()
		gw := desired(worker("gateways"), 1, 0, 0)
		gw.Role, gw.Publish = mvm.RoleGateway, []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:8080"), Guest: 80}}
		d := deployment(gw)
		d.Pools = append(d.Pools, desired(worker("workers"), 1, 0, 0))
		for range 2 {
			if err := h.apply(d); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), errOnPurpose.Error()) {
				t.Fatalf("deploy: %v, want that the port is taken", err)
			}
			h.wantCounts("though the port is taken", "workers", mvm.Counts{Running: 1})
			if _, err := h.a.Reconcile(ctx(t), mvm.ReconcileRequest{}, nil); !mvm.IsKind(err, mvm.KindUnavailable) {
				t.Errorf("reconcile: %v, want that the port is taken", err)
			}
		}
		h.change("workers", func(s *mvm.PoolSpec) { s.Desired.Running = 2 }) // another pool's port is none of its business
		h.change("gateways", func(s *mvm.PoolSpec) { s.Critical = true })
		gw = d.Pools[0]
		gw.Publish = []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:8081"), Guest: 80}}
		if _, err := h.a.UpdatePool(ctx(t), "acme", "gateways", mvm.PoolUpdate{Spec: &gw}); !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("publish another that is taken: %v, want that it is", err)
		}
		pub.left.Store(0)
		settled(10 * time.Second)
		d.Pools[0] = gw
		d.Pools[1].Desired.Running = 2
		if err := h.apply(d); err != nil {
			t.Errorf("deploy once the port is free: %v", err)
		}
		if p, _ := h.a.Pool(ctx(t), "acme", "gateways"); p.Unpublished != "" || len(p.Bound) != 1 || p.Bound[0].Port() != 8081 {
			t.Errorf("pool has %v, %q, want its port served", p.Bound, p.Unpublished)
		}
	})
}

// TestApplyWaitsForMinimumTimes: who waits until all is as it should be does so, and may
// give up meanwhile.
func TestApplyWaitsForMinimumTimes(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		spec := desired(worker("workers"), 2, 0, 0)
		spec.Policy.MinRunningSeconds = 60
		if err := h.apply(deployment(spec)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		spec.Desired.Running = 1
		var told []string
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := h.a.Apply(short, deployment(spec), mvm.ApplyOptions{}, nil)
		if cancel(); !mvm.IsKind(err, mvm.KindCanceled) || time.Since(began) != 10*time.Second {
			t.Errorf("after %v: %v, want that it gave up after 10 s", time.Since(began), err)
		}
		steps, err := h.a.Apply(t.Context(), deployment(spec), mvm.ApplyOptions{}, func(p mvm.Progress) { told = append(told, p.Text) })
		if err != nil || len(steps) != 1 || steps[0].Action != string(mvm.OpSleep) {
			t.Errorf("%v, %v; want one sleep", steps, err)
		}
		if waited := time.Since(began); waited < 55*time.Second || waited > 65*time.Second {
			t.Errorf("it took %v, want the minimum time of a minute", waited)
		}
		if all := strings.Join(told, "\n"); !strings.Contains(all, "not before") || !strings.Contains(all, "min_running_seconds") {
			t.Errorf("it told\n%s\nwant what it waits for", all)
		}
		h.wantCounts("when it returns", "workers", mvm.Counts{Running: 1, Sleeping: 1})
	})
}

// TestServiceThatFails: an instance that runs and does not serve is told of each time.
func TestServiceThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.host.Behave("", fake.Behavior{NeverReady: true})
		d := deployment(desired(worker("workers"), 1, 0, 0))
		for range 3 {
			if err := h.apply(d); err == nil {
				t.Fatal("deploy of what does not get ready: no error")
			}
			settled(10 * time.Minute)
		}
		h.host.Behave("", fake.Behavior{})
		settled(5 * time.Minute)
		if err := h.apply(d); err != nil {
			t.Errorf("deploy once its services are ready: %v", err)
		}
		if i := h.all("workers")[0]; !i.Ready || i.Problem != "" {
			t.Errorf("it is ready: %v, with problem %q", i.Ready, i.Problem)
		}
	})
}

// TestQuotaThatIsTooSmall: what the quota has no room for is an error each time, and what
// it has room for is done.
func TestQuotaThatIsTooSmall(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		d := deployment(desired(worker("workers"), 3, 0, 0))
		q := mvm.DefaultQuota()
		q.MaxRunning = 2
		d.Tenant.Quota = &q
		for range 2 {
			if err := h.apply(d); !mvm.IsKind(err, mvm.KindQuota) || !strings.Contains(err.Error(), "stays at 2 of 3 running: quota max_running is 2") {
				t.Errorf("deploy: %v, want the quota that keeps one from running", err)
			}
			h.wantCounts("with room for 2", "workers", mvm.Counts{Running: 2})
			settled(10 * time.Minute)
		}
		d.Pools[0].Resources.MemMiB *= 2
		q.MaxRunning, q.MaxMemMiB = 3, 3*d.Pools[0].Resources.MemMiB-1
		if err := h.apply(d); !mvm.IsKind(err, mvm.KindQuota) || !strings.Contains(err.Error(), "max_mem_mib") {
			t.Errorf("deploy of a larger size: %v, want the quota that has no room for it", err)
		}
		q.MaxMemMiB++
		if err := h.apply(d); err != nil {
			t.Errorf("deploy with room for all: %v", err)
		}
		h.wantCounts("with room for all", "workers", mvm.Counts{Running: 3})
	})
}
