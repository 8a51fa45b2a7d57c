package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/schedule"
)

// asleepUntil has the worker tell of its next wake, and fall asleep.
func (h *idleHost) asleepUntil(id string, at time.Time) {
	h.t.Helper()
	h.behave(id, fake.Behavior{NextWake: at})
	if i := h.want(25*time.Second, id, mvm.StateSleeping); !i.NextWake.Equal(at) {
		h.t.Fatalf("it sleeps with next wake %v, want %v", i.NextWake, at)
	}
}

// wantWoken checks that the instance runs shortly before the time, woken by its timer.
func (h *idleHost) wantWoken(id string, at time.Time) {
	h.t.Helper()
	i := h.after(time.Until(at), id)
	if i.State != mvm.StateRunning || i.Last.By != (mvm.Asker{Kind: mvm.AskerTimer, ID: id}) {
		h.t.Fatalf("at its next wake it is %s, last by %s", i.State, i.Last.By)
	}
	early := at.Sub(i.Last.Started)
	if least, most := schedule.Early, schedule.Early+schedule.Jitter+time.Minute; early < least || early > most {
		h.t.Errorf("the wake began %s before its time, want %s to %s", early, least, most)
	}
}

// inOneHour is a time that is told as it is.
func inOneHour() time.Time { return time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond) }

// A workload's next wake has its instance running at that time, once, though nobody asks for
// it and nothing is desired, and reconcile leaves it alone.
func TestTimerWakes(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.stop()
		at := inOneHour()
		h.behave(i.ID, fake.Behavior{NextWake: at}) // before reconcile, which works at once, puts it to sleep
		h.every = 0
		h.start()
		h.asleepUntil(i.ID, at)
		if ev := h.eventsOf(i.ID, mvm.TimerSet); len(ev) != 1 || ev[0].Detail != at.Format(time.RFC3339) || ev[0].By.Kind != mvm.AskerGuest {
			t.Errorf("events %+v", ev)
		}
		h.want(time.Until(at)-2*time.Minute, i.ID, mvm.StateSleeping)
		h.wantWoken(i.ID, at)
		if ev := h.eventsOf(i.ID, mvm.TimerFired); len(ev) != 1 || ev[0].By.Kind != mvm.AskerTimer {
			t.Errorf("events %+v", ev)
		}
		h.want(29*time.Second, i.ID, mvm.StateRunning) // its workload can begin
		h.want(30*time.Second, i.ID, mvm.StateSleeping)
		if got := h.want(2*time.Hour, i.ID, mvm.StateSleeping); !got.NextWake.IsZero() {
			t.Errorf("next wake %v of one that was awake then", got.NextWake)
		}
		if n := h.metrics.of("timer ok"); n != 1 {
			t.Errorf("counted %d wakes", n)
		}
	})
}

// Shortly before its next wake an idle instance is kept awake, and says why: a sleep would
// not be worth it. What a guest tells while it runs counts as what it tells before a sleep.
func TestNextWakeKeepsAwake(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		at := time.Now().Add(100 * time.Second)
		h.call(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Ready: true, Version: 1 << 30, NextWake: at}})
		h.behave(i.ID, fake.Behavior{NextWake: at})
		h.want(11*time.Second, i.ID, mvm.StateRunning)
		h.wantAwake(i.ID, "its next wake is in ")
		h.want(time.Until(at)+10*time.Second, i.ID, mvm.StateRunning)
		h.behave(i.ID, fake.Behavior{})
		h.call(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Ready: true, Version: 1 << 31}})
		h.want(25*time.Second, i.ID, mvm.StateSleeping)
	})
}

// The guest's word when it gets ready to sleep calls the policy off.
func TestNextWakeCallsOffASleep(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.behave(i.ID, fake.Behavior{NextWake: time.Now().Add(80 * time.Second)}) // it told nothing while it ran
		if got := h.want(21*time.Second, i.ID, mvm.StateRunning); len(h.eventsOf(i.ID, mvm.InstanceSlept)) != 0 {
			t.Errorf("it slept: %+v", got.Last)
		}
	})
}

// Who sends it to sleep between the wake and its time does not make it miss that.
func TestTimerWakesAgain(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		at := inOneHour()
		h.asleepUntil(i.ID, at)
		h.want(time.Until(at)-4*time.Second, i.ID, mvm.StateRunning)
		h.do(i.ID, mvm.OpSleep)
		h.wantWoken2(i.ID, at)
	})
}

// wantWoken2: the instance was woken by its timer a second time.
func (h *idleHost) wantWoken2(id string, at time.Time) {
	h.t.Helper()
	i := h.after(time.Until(at), id)
	if n := len(h.eventsOf(id, mvm.TimerFired)); i.State != mvm.StateRunning || n != 2 {
		h.t.Fatalf("at its next wake it is %s, woken %d times", i.State, n)
	}
}

// Wakes that were due while no agent ran are caught up on as the pool says.
func TestMissedWakes(t *testing.T) {
	for policy, c := range map[mvm.CatchUp]struct{ fired, skipped int }{
		"": {1, 0}, mvm.CatchUpOnce: {1, 0}, mvm.CatchUpSkip: {0, 1}, mvm.CatchUpAll: {4, 0},
	} {
		t.Run(string(policy), func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				spec := idleWorker("workers")
				spec.WakeCatchUp = policy
				if _, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec}); err != nil {
					t.Fatal(err)
				}
				at := inOneHour()
				h.asleepUntil(i.ID, at)
				h.stop()
				time.Sleep(4 * time.Hour)
				h.start()
				told := 0 // its workload has missed four, and tells of one after the other
				for range 300 {
					h.after(time.Second, i.ID)
					if n := len(h.eventsOf(i.ID, mvm.TimerFired)); n > told {
						told = n
						next := fake.Behavior{}
						if n < 4 {
							next.NextWake = at.Add(time.Duration(n) * time.Hour)
						}
						h.behave(i.ID, next)
					}
				}
				h.behave(i.ID, fake.Behavior{})
				if got := h.want(time.Hour, i.ID, mvm.StateSleeping); !got.NextWake.IsZero() {
					t.Errorf("next wake %v is left", got.NextWake)
				}
				fired, skipped := h.eventsOf(i.ID, mvm.TimerFired), h.eventsOf(i.ID, mvm.TimerSkipped)
				if len(fired) != c.fired || policy == mvm.CatchUpSkip && len(skipped) != c.skipped {
					t.Errorf("woken %d times, skipped %d: %+v %+v", len(fired), len(skipped), fired, skipped)
				}
				if len(fired) > 0 && !strings.Contains(fired[0].Detail, "missed by 3h0m") {
					t.Errorf("event %+v", fired[0])
				}
			})
		})
	}
}

// A wake that fails is tried again, and one that is refused for the quota too.
func TestTimerTriesAgain(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		at := inOneHour()
		h.asleepUntil(i.ID, at)
		until := at.Add(-8 * time.Second)
		h.failing(func(op fake.Op, _ string) error {
			if op == fake.OpRestore && time.Now().Before(until) {
				return errors.New("no room on purpose")
			}
			return nil
		})
		if i := h.after(time.Until(at)+10*time.Second, i.ID); i.State != mvm.StateRunning || h.metrics.of("timer failed") == 0 || h.metrics.of("timer ok") != 1 {
			t.Errorf("it is %s after %d failed wakes", i.State, h.metrics.of("timer failed"))
		}
	})
}

// A person who stopped an instance wants it stopped; one whose VMM ended is started.
func TestTimerOfAStoppedInstance(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(h *idleHost, id string)
		want mvm.State
	}{
		"by a person": {func(h *idleHost, id string) {
			if _, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.Asker{Kind: mvm.AskerCLI, ID: "root"}), mvm.Address{Instance: id}, mvm.OpRequest{Op: mvm.OpStop}, nil); err != nil {
				h.t.Fatal(err)
			}
		}, mvm.StateStopped},
		"by itself": {func(h *idleHost, id string) { h.host.host.Crash(id) }, mvm.StateRunning},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				at := inOneHour()
				h.call(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Ready: true, Version: 1 << 30, NextWake: at}})
				h.after(time.Second, i.ID)
				c.end(h, i.ID)
				h.want(time.Minute, i.ID, mvm.StateStopped)
				h.want(time.Until(at), i.ID, c.want)
			})
		})
	}
}

// What a guest tells is bounded: it is of that instance alone, of a time that makes sense,
// and goes on record once in a while. The last word counts.
func TestGuestsTellOfTimersWithinBounds(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		other := h.more("workers")
		tell := func(at time.Time) {
			h.call(i.ID, guestproto.HostRequest{ReportHealth: &guestproto.Status{Ready: true, Version: 1 << 30, NextWake: at}})
		}
		for _, at := range []time.Time{time.Now().Add(500 * 24 * time.Hour), time.Now().Add(-48 * time.Hour), time.Unix(0, 0)} {
			tell(at)
			if got := h.after(time.Second, i.ID); !got.NextWake.IsZero() {
				t.Errorf("told %v: next wake %v", at, got.NextWake)
			}
		}
		h.behave(i.ID, fake.Behavior{Busy: true}) // it stays awake
		time.Sleep(10 * time.Second)
		changes, last := 0, time.Time{}
		var on time.Time
		for n := range 200 { // for 40 s
			last = inOneHour().Add(time.Duration(n) * time.Second)
			tell(last)
			if got := h.after(200*time.Millisecond, i.ID); !got.NextWake.Equal(on) {
				changes, on = changes+1, got.NextWake
			}
		}
		if changes < 2 || changes > 6 {
			t.Errorf("on record %d times in 40 s", changes)
		}
		if got := h.after(15*time.Second, i.ID); !got.NextWake.Equal(last) {
			t.Errorf("next wake %v, want the last word %v", got.NextWake, last)
		}
		if got := h.get(other.ID); !got.NextWake.IsZero() {
			t.Errorf("the other instance has next wake %v", got.NextWake)
		}
	})
}

// steppedClock is a clock that a test sets.
type steppedClock struct {
	mu     sync.Mutex
	offset time.Duration
	set    chan struct{}
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *steppedClock) Wait(ctx context.Context, poked <-chan struct{}, until time.Time) {
	c.mu.Lock()
	set := c.set
	c.mu.Unlock()
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(until.Sub(c.Now()))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-poked:
	case <-ctx.Done():
	case <-set:
	case <-over:
	}
}

// step sets the clock, and tells who waits.
func (c *steppedClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
	close(c.set)
	c.set = make(chan struct{})
}

// A time is one of the day: who sets the host's clock moves it.
func TestTimersWhenTheClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{0, 50 * time.Minute, -2 * time.Hour, 5 * time.Hour} { // an hour before the time
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				clock := &steppedClock{set: make(chan struct{})}
				h.stop()
				h.clock = clock
				h.start()
				at := inOneHour()
				h.asleepUntil(i.ID, at)
				time.Sleep(time.Second)
				clock.step(step)
				due := time.Now().Add(time.Until(at) - step)
				if before := time.Until(due) - 2*time.Minute; before > 0 {
					h.want(before, i.ID, mvm.StateSleeping)
				}
				h.after(max(time.Until(due), time.Second), i.ID) // the policy goes by the test's clock, which nobody sets
				fired := h.eventsOf(i.ID, mvm.TimerFired)
				if len(fired) == 0 {
					t.Fatal("it was not woken")
				}
				if before := due.Sub(fired[0].Time.Add(-step)); step < time.Hour && (before < schedule.Early || before > time.Minute) {
					t.Errorf("woken %s before its time", before)
				}
			})
		})
	}
}

// A guest that runs has the host's time soon after somebody has set that, forward or back, also
// while an operation on it is under way or no agent runs.
func TestGuestsFollowTheClock(t *testing.T) {
	for _, step := range []time.Duration{50 * time.Minute, -2 * time.Hour} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				clock := &steppedClock{set: make(chan struct{})}
				h.stop()
				h.clock = clock
				h.start()
				right := func(when string) {
					t.Helper()
					time.Sleep(6 * time.Second)
					g, ok := h.host.host.Guest(i.ID)
					if off := g.Clock.Sub(clock.Now()).Abs(); !ok || off > 50*time.Millisecond {
						t.Errorf("%s: the guest's clock is %s off", when, off)
					}
				}
				clock.step(step)
				right("it runs")
				h.stop()
				clock.step(step)
				h.start()
				right("no agent ran")
			})
		})
	}
}
