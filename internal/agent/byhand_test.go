package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// operate is what a person does to the instance.
func (h *host) operate(id string, op mvm.OpKind) error {
	h.t.Helper()
	_, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.ParseAsker("cli:root")), mvm.Address{Instance: id}, mvm.OpRequest{Op: op}, nil)
	return err
}

// byHand is operate, which must succeed.
func (h *host) byHand(id string, ops ...mvm.OpKind) {
	h.t.Helper()
	for _, op := range ops {
		if err := h.operate(id, op); err != nil {
			h.t.Fatalf("%s by hand: %v", op, err)
		}
	}
}

// TestLeftAloneIsNoSuccess: who waits until all is as asked for is told which instance is
// left alone, until when and what that keeps back, for as long as it does.
func TestLeftAloneIsNoSuccess(t *testing.T) {
	changes := map[string]func(*mvm.PoolSpec){
		"environment": func(s *mvm.PoolSpec) { s.Env = map[string]string{"A": "1"} },
		"size":        func(s *mvm.PoolSpec) { s.Resources.MemMiB += 128 },
		"image":       func(s *mvm.PoolSpec) { s.Flake = "builtin:gateway" },
		"count":       func(s *mvm.PoolSpec) { s.Desired.Running = 0 },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *host) {
				d := deployment(desired(worker("workers"), 1, 0, 0))
				d.Pools[0].Policy.MinRunningSeconds = 0
				if err := h.apply(d); err != nil {
					t.Fatal(err)
				}
				i := h.all("workers")[0]
				h.byHand(i.ID, mvm.OpStop, mvm.OpStart)
				if err := h.apply(d); err != nil {
					t.Errorf("deploy of what is so already: %v", err)
				}
				change(&d.Pools[0])
				until := time.Now().Add(10 * time.Minute).UTC().Format(time.RFC3339)
				for what, ask := range h.waits(d) {
					err := ask(false)
					if !mvm.IsKind(err, mvm.KindLeftAlone) || !strings.Contains(err.Error(), i.Address().String()+" was changed by hand and is left alone until "+until) {
						t.Errorf("%s: %v, want that %s is left alone until %s", what, err, i.ID, until)
					}
				}
				settled(10*time.Minute + time.Second)
				for what, ask := range h.waits(d) {
					if err := ask(false); err != nil {
						t.Errorf("%s, later: %v", what, err)
					}
				}
			})
		})
	}
}

// waits are the ways to wait until all is as the deployment says, or to ask whether it is.
func (h *host) waits(d mvm.Deployment) map[string]func(force bool) error {
	reconcile := func(req mvm.ReconcileRequest) func(bool) error {
		return func(force bool) error {
			req.Force = force
			_, err := h.a.Reconcile(ctx(h.t), req, nil)
			return err
		}
	}
	apply := func(dry bool) func(bool) error {
		return func(force bool) error {
			steps, err := h.a.Apply(ctx(h.t), d, mvm.ApplyOptions{Force: force, Dry: dry}, nil)
			if err == nil && dry && len(steps) > 0 {
				err = mvm.Errorf(mvm.KindLeftAlone, "%v", steps) // the record is not changed yet
			}
			return err
		}
	}
	if _, err := h.a.Apply(ctx(h.t), d, mvm.ApplyOptions{NoWait: true}, nil); err != nil {
		h.t.Fatal(err)
	}
	settled(0) // a dry run of what still has an image to build is steps, not the wait for a person
	return map[string]func(bool) error{"deploy": apply(false), "dry run": apply(true), "reconcile": reconcile(mvm.ReconcileRequest{Tenant: "acme"}),
		"reconcile the host": reconcile(mvm.ReconcileRequest{}), "dry reconcile": reconcile(mvm.ReconcileRequest{Tenant: "acme", Dry: true})}
}

// TestForceTakesOver: with force nothing is left alone, and the audit log says who took it.
func TestForceTakesOver(t *testing.T) {
	for _, what := range []string{"deploy", "reconcile", "reconcile the host", "update"} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *host) {
				d := deployment(desired(worker("workers"), 1, 0, 0))
				d.Pools[0].Policy.MinRunningSeconds = 0
				if err := h.apply(d); err != nil {
					t.Fatal(err)
				}
				i := h.all("workers")[0]
				h.byHand(i.ID, mvm.OpStop)
				d.Pools[0].Env = map[string]string{"A": "1"}
				ask := h.waits(d)[what]
				if what == "update" {
					ask = func(bool) error {
						_, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &d.Pools[0], Force: true})
						settled(time.Second)
						return err
					}
				}
				if err := ask(true); err != nil {
					t.Fatalf("with force: %v", err)
				}
				h.wantCounts("taken over", "workers", mvm.Counts{Running: 1})
				if n := h.happened(mvm.OverrideEnded); n != 1 {
					t.Errorf("the audit log has %d overrides that ended, want 1", n)
				}
				if err := h.apply(d); err != nil {
					t.Errorf("deploy afterwards: %v", err)
				}
			})
		})
	}
}

// TestCrashEndsOverride: an instance that a person changed comes back when its VMM ends,
// as others do. One that a person stopped stays stopped.
func TestCrashEndsOverride(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		if err := h.apply(deployment(desired(worker("workers"), 1, 0, 0))); err != nil {
			t.Fatal(err)
		}
		i := h.all("workers")[0]
		for what, end := range map[string]func(){
			"its VMM dies":         func() { h.host.Crash(i.ID) },
			"its guest powers off": func() { h.host.Poweroff(i.ID) },
			"its VMM dies under a sleep": func() {
				h.host.Crash(i.ID)
				if err := h.operate(i.ID, mvm.OpSleep); err == nil {
					t.Error("sleep of what has no VMM: no error")
				}
			},
			"its VMM dies with the host": func() {
				h.stop()
				h.host.Crash(i.ID)
				h.start()
			},
		} {
			h.byHand(i.ID, mvm.OpStop, mvm.OpStart)
			end()
			settled(time.Minute)
			if got := h.all("workers")[0]; got.State != mvm.StateRunning || !got.ManualOverrideUntil.IsZero() {
				t.Errorf("%s: it is %s, left alone until %s; want it back", what, got.State, got.ManualOverrideUntil)
			}
		}
		h.byHand(i.ID, mvm.OpStop)
		settled(time.Minute)
		if got := h.all("workers")[0]; got.State != mvm.StateStopped {
			t.Errorf("a person stopped it, and it is %s", got.State)
		}
	})
}

// TestUsersInstanceComesBack: an instance of a user's key is started again when its VMM
// ends by itself, and not when a person stopped it.
func TestUsersInstanceComesBack(t *testing.T) {
	specs := map[string]mvm.PoolSpec{"one desired": desired(worker("workers"), 1, 0, 0), "none desired": desired(worker("workers"), 0, 0, 0)}
	pinned := specs["one desired"]
	pinned.Pinned = true
	specs["pinned, one desired"] = pinned
	for name, spec := range specs {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *host) {
				if err := h.apply(deployment(spec)); err != nil {
					t.Fatal(err)
				}
				if spec.Desired.Running == 0 {
					settled(time.Second)
				}
				i, err := h.a.CreateInstance(ctx(t), "acme", "workers", "ann")
				if err != nil {
					t.Fatal(err)
				}
				h.do(i.ID, mvm.OpStart)
				settled(11 * time.Minute)
				h.do(i.ID, mvm.OpStart) // the policy may have put it to sleep
				for range 2 {
					h.host.Crash(i.ID)
					settled(time.Minute)
					if got := h.get(i.ID); got.State != mvm.StateRunning {
						t.Fatalf("a minute after its VMM died it is %s", got.State)
					}
				}
				h.byHand(i.ID, mvm.OpStop)
				settled(15 * time.Minute)
				if got := h.get(i.ID); got.State != mvm.StateStopped {
					t.Errorf("a person stopped it, and it is %s", got.State)
				}
			})
		})
	}
}

// TestSinceTheCrash: an instance whose VMM ended while no agent ran is stopped since the
// agent found that, and its record says so, also where it can't be started again.
func TestSinceTheCrash(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		if err := h.apply(deployment(desired(worker("workers"), 1, 0, 0))); err != nil {
			t.Fatal(err)
		}
		i := h.all("workers")[0]
		settled(time.Hour)
		h.stop()
		h.host.Crash(i.ID)
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpStart {
				return errors.New("no room")
			}
			return nil
		})
		began := time.Now()
		h.start()
		settled(time.Second)
		got := h.get(i.ID)
		if got.State != mvm.StateStopped || got.Changed.Before(began) {
			t.Errorf("it is %s since %s, and it crashed after %s", got.State, got.Changed, began)
		}
		if got.Last == nil || got.Last.Op != mvm.OpStop || got.Last.By != mvm.ParseAsker("agent") || !strings.Contains(got.Last.Why, "its VMM was gone") {
			t.Errorf("its record has %+v, want the crash", got.Last)
		}
		story, err := h.a.Why(ctx(t), mvm.Address{Instance: i.ID})
		if err != nil || !strings.Contains(story.Transitions[len(story.Transitions)-2].Why, "its VMM was gone") {
			t.Errorf("its story is %+v, %v; want the crash before the start that failed", story.Transitions, err)
		}
		h.failing(nil)
		settled(10 * time.Minute)
		h.wantCounts("when it can start", "workers", mvm.Counts{Running: 1})
	})
}

// TestWhoStoppedSurvivesACrash: a person's stop that recovery finishes is the person's
// still, and so is not undone; one of reconcile is not meant to last.
func TestWhoStoppedSurvivesACrash(t *testing.T) {
	for by, unwanted := range map[mvm.Asker]bool{mvm.ParseAsker("cli:root"): false, {Kind: mvm.AskerReconcile}: true} {
		t.Run(by.String(), func(t *testing.T) {
			h := newHost(t)
			h.every = -1 // nothing starts it again
			h.start()
			i := h.instance()
			h.crashDuring("stop.release:before", i.ID, by, mvm.OpRequest{Op: mvm.OpStop})
			if got := h.get(i.ID); got.State != mvm.StateStopped || got.Last == nil || got.Last.Unwanted != unwanted {
				t.Errorf("it is %s, last %+v; want it stopped, unwanted %v", got.State, got.Last, unwanted)
			}
		})
	}
}
