package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// A wake that comes while the policy warms an instance or puts it to sleep wins, up to
// the commit: the instance just goes on.
func TestWakeCallsOffThePolicy(t *testing.T) {
	for _, c := range []struct {
		point string
		wait  time.Duration // until the policy is at it
	}{
		{"warm.intent:after", 11 * time.Second}, {"warm.fence:after", 11 * time.Second}, {"warm.pause:before", 11 * time.Second},
		{"sleep.intent:after", 22 * time.Second}, {"sleep.resume:after", 22 * time.Second},
		{"sleep.fence:after", 22 * time.Second}, {"sleep.pause:after", 22 * time.Second}, {"sleep.snapshot:after", 22 * time.Second},
	} {
		t.Run(c.point, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				boot := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id")
				reached, goOn := h.hold(c.point)
				<-reached
				woke := make(chan error, 1)
				go func() {
					_, err := h.a.Operate(ctx(h.t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil)
					woke <- err
				}()
				synctest.Wait()
				goOn()
				if err := <-woke; err != nil {
					t.Errorf("wake: %v", err)
				}
				got := h.want(0, i.ID, mvm.StateRunning)
				if got.Parked || got.Snapshot != nil || got.Problem != "" {
					t.Errorf("it goes on as %+v", got)
				}
				if now := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id"); now != boot {
					t.Error("the guest was booted again")
				}
				ev := h.eventsOf(i.ID, mvm.TransitionDeferred)
				if len(ev) != 1 || !strings.Contains(ev[0].Detail, "a wake arrived") {
					t.Errorf("deferred: %+v, want once, for the wake", ev)
				}
				h.want(9*time.Second, i.ID, mvm.StateRunning) // it is idle anew
				h.want(25*time.Second, i.ID, mvm.StateSleeping)
			})
		})
	}
}

// What a gateway says when it is fenced is the last word: a request that came after the
// decision, and a connection that a new agent has not heard of, keep the instance.
func TestGatewaysHaveTheLastWord(t *testing.T) {
	for name, c := range map[string]struct {
		says    func() fake.Behavior
		because string
	}{
		"a request is under way":  {func() fake.Behavior { return fake.Behavior{Active: 1} }, "1 requests are under way"},
		"a connection is open":    {func() fake.Behavior { return fake.Behavior{Open: 2} }, "2 connections are open"},
		"a request came and went": {func() fake.Behavior { return fake.Behavior{LastActive: time.Now()} }, "a request came after it was decided"},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, w mvm.Instance) {
				gw := h.pool("acme", idleGateway(1))
				reached, goOn := h.hold("warm.intent:after")
				<-reached
				h.behave(gw.ID, c.says())
				goOn()
				h.want(time.Second, w.ID, mvm.StateRunning)
				ev := h.eventsOf(w.ID, mvm.TransitionDeferred)
				if len(ev) != 1 || !strings.Contains(ev[0].Detail, c.because) {
					t.Errorf("deferred: %+v, want once, because %s", ev, c.because)
				}
				h.behave(gw.ID, fake.Behavior{})
				h.want(5*time.Minute, w.ID, map[bool]mvm.State{true: mvm.StateRunning, false: mvm.StateSleeping}[c.says().Active+c.says().Open > 0])
			})
		})
	}
}

// A command that begins while the policy is at work calls it off.
func TestExecCallsOffThePolicy(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		reached, goOn := h.hold("warm.pause:before")
		<-reached
		done := h.execFor(i.ID, "30")
		synctest.Wait()
		goOn()
		h.want(20*time.Second, i.ID, mvm.StateRunning)
		if err := <-done; err != nil {
			t.Errorf("the command: %v", err)
		}
		h.want(25*time.Second, i.ID, mvm.StateSleeping)
	})
}

// A person's change comes after the policy's, and stands for itself.
func TestPersonAndPolicy(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		reached, goOn := h.hold("warm.pause:before")
		<-reached
		slept := make(chan error, 1)
		go func() {
			_, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.ParseAsker("cli:ann")), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWarm}, nil)
			slept <- err
		}()
		synctest.Wait()
		goOn()
		if err := <-slept; err != nil {
			t.Errorf("warm by hand: %v", err)
		}
		if got := h.want(time.Minute, i.ID, mvm.StateWarm); got.Parked {
			t.Error("it is parked, and a person wanted it warm")
		}
	})
}

// What changes between the decision and the intent calls it off.
func TestDecisionIsOld(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		reached, goOn := h.hold("warm.intent:before")
		<-reached
		spec := idleWorker("workers")
		spec.Pinned = true
		if _, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec}); err != nil {
			t.Fatal(err)
		}
		goOn()
		h.want(time.Minute, i.ID, mvm.StateRunning)
		spec.Pinned = false
		if _, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec}); err != nil {
			t.Fatal(err)
		}
		reached, goOn = h.hold("sleep.intent:before")
		<-reached
		done := make(chan mvm.Instance, 1)
		go func() {
			got, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.ParseAsker("cli:ann")), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWarm}, nil)
			if err != nil {
				t.Errorf("warm by hand: %v", err)
			}
			done <- got
		}()
		synctest.Wait()
		goOn()
		if got := <-done; got.State != mvm.StateWarm || got.Last.By != mvm.ParseAsker("cli:ann") {
			t.Errorf("%s by %s, want warm by who asked for it", got.State, got.Last.By)
		}
	})
}

// A guest that does not get ready is not forced: it stays awake, that is on record
// once, and the next tries come ever later.
func TestPolicyForcesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		b    fake.Behavior
		says string
	}{
		"it says no":         {fake.Behavior{NackSleepPrep: "not drained within 1s: a turn"}, "not drained within 1s: a turn"},
		"it does not answer": {fake.Behavior{Silent: true, Only: []string{"SleepPrep"}}, "was not ready to sleep"},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				h.behave(i.ID, c.b)
				for time.Sleep(15 * time.Second); h.get(i.ID).Op != nil; time.Sleep(100 * time.Millisecond) {
				}
				i = h.after(time.Second, i.ID)
				if i.State != mvm.StateRunning || i.Idle == nil || !strings.Contains(i.Idle.Awake+i.Idle.Reason, c.says) {
					t.Errorf("%s, idle %+v", i.State, i.Idle)
				}
				time.Sleep(10 * time.Minute)
				tries := len(h.eventsOf(i.ID, mvm.DrainTimedOut))
				if ev := h.eventsOf(i.ID, mvm.TransitionDeferred); len(ev) != 1 || tries < 3 || tries > 12 {
					t.Errorf("%d tries, deferred: %+v; want some tries, and it on record once", tries, ev)
				}
				h.behave(i.ID, fake.Behavior{})
				h.want(11*time.Minute, i.ID, mvm.StateSleeping)
			})
		})
	}
}

// Workers rest before the gateways that serve them.
func TestRoleOrder(t *testing.T) {
	idling(t, func(h *idleHost, w mvm.Instance) {
		gw := h.pool("acme", idleGateway(0))
		reached, goOn := h.hold("warm.fence:after")
		<-reached
		h.want(time.Minute, gw.ID, mvm.StateRunning)
		goOn()
		h.want(30*time.Second, gw.ID, mvm.StateSleeping)
		slept := func(id string) time.Time { return h.eventsOf(id, mvm.InstanceSlept)[0].Time }
		if !slept(w.ID).Before(slept(gw.ID)) {
			t.Errorf("the worker slept at %s, its gateway at %s", slept(w.ID), slept(gw.ID))
		}
	})
}
