package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/schedule"
	"mvm/internal/store"
)

// A guest that takes minutes to boot, as a large workload does.
const (
	bootOfLarge  = 5 * time.Second
	readyOfLarge = 175 * time.Second
	largeBoots   = bootOfLarge + readyOfLarge
)

// large boots the worker as one that takes long, and has it wake so often afterwards that
// nothing but its boot itself tells how long that takes.
func (h *idleHost) large(id string, next time.Time) {
	h.t.Helper()
	h.waiting(time.Hour)
	h.do(id, mvm.OpStop)
	h.behave(id, fake.Behavior{Boot: bootOfLarge, ReadyAfter: readyOfLarge})
	c, cancel := context.WithTimeout(h.t.Context(), time.Hour)
	defer cancel()
	_, err := h.a.Operate(c, mvm.Address{Instance: id}, mvm.OpRequest{Op: mvm.OpStart}, nil)
	must(h.t, err)
	if i := h.get(id); !i.Ready || i.Last.Took < largeBoots {
		h.t.Fatalf("it is ready %v after %s, want after %s", i.Ready, i.Last.Took, largeBoots)
	}
	h.sleeps(id, next)
}

// waiting starts the agent anew. It waits that long for services.
func (h *idleHost) waiting(ready time.Duration) {
	h.stop()
	h.ready = ready
	h.start()
}

// sleeps has the large worker wake often, and then sleep with the next wake.
func (h *idleHost) sleeps(id string, next time.Time) {
	h.t.Helper()
	for range 12 {
		h.do(id, mvm.OpSleep)
		h.do(id, mvm.OpWake)
	}
	h.behave(id, fake.Behavior{Boot: bootOfLarge, ReadyAfter: readyOfLarge, NextWake: next})
	if i := h.do(id, mvm.OpSleep); !i.NextWake.Equal(next) {
		h.t.Fatalf("it sleeps with next wake %v, want %v", i.NextWake, next)
	}
}

// wantUpAt checks that the instance was ready before the time, booted or woken by its timer,
// and no earlier than that needs.
func (h *idleHost) wantUpAt(id string, at time.Time, kind string) {
	h.t.Helper()
	needs := schedule.Early + schedule.Jitter + 11*time.Second // no time passes in a wake here, which counts as 10 s
	if kind == "cold" {
		needs += largeBoots + largeBoots/4
	}
	h.want(time.Until(at)-needs, id, h.get(id).State)
	i := h.after(time.Until(at)-time.Second, id)
	if i.State != mvm.StateRunning || !i.Ready || i.Last.Kind != kind || i.Last.By != (mvm.Asker{Kind: mvm.AskerTimer, ID: id}) {
		h.t.Fatalf("a second before its next wake it is %s, ready %v, after a %s %s by %s (%s)", i.State, i.Ready, i.Last.Kind, i.Last.Op, i.Last.By, i.Last.Why)
	}
	if boots := strings.Contains(i.Last.Why, "has to boot"); boots != (kind == "cold" && i.Last.From == mvm.StateSleeping) {
		h.t.Errorf("it was woken because %q", i.Last.Why)
	}
	h.after(2*time.Minute, id)
	if fired := h.eventsOf(id, mvm.TimerFired); len(fired) != 1 {
		h.t.Errorf("woken %d times: %+v", len(fired), fired)
	}
}

// lose removes what is in a folder of the instance, deep down.
func (h *idleHost) lose(i mvm.Instance, folder string) {
	h.t.Helper()
	var files []string
	must(h.t, filepath.WalkDir(h.durable(i, folder), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	if len(files) == 0 {
		h.t.Fatalf("there is nothing in %s", folder)
	}
	for _, f := range files {
		must(h.t, os.Remove(f))
	}
}

// An instance whose snapshot will not be used is booted so early that its services are ready at
// its next wake, however that came and whatever happened to the agent meanwhile. How long a
// boot takes is known from its last one.
func TestTimerLeavesTimeToBoot(t *testing.T) {
	type host = *idleHost
	for name, c := range map[string]struct {
		happens func(h host, i mvm.Instance)
		kind    string
	}{
		"nothing happens":  {func(host, mvm.Instance) {}, "warm"},
		"no device state":  {func(h host, i mvm.Instance) { h.lose(i, "snapshots") }, "cold"},
		"no pages":         {func(h host, i mvm.Instance) { h.lose(i, "segments") }, "cold"},
		"the agent begins": {func(h host, i mvm.Instance) { h.lose(i, "snapshots"); h.stop(); h.start() }, "cold"},
		"another size": {func(h host, i mvm.Instance) {
			spec := idleWorker("workers")
			spec.Resources.MemMiB *= 2
			_, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec})
			must(h.t, err)
		}, "cold"},
		"it crashed": {func(h host, i mvm.Instance) {
			h.do(i.ID, mvm.OpWake)
			h.host.host.Crash(i.ID)
			h.want(time.Second, i.ID, mvm.StateStopped)
		}, "cold"},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				at := time.Now().Add(3 * time.Hour).UTC().Truncate(time.Millisecond)
				h.large(i.ID, at)
				c.happens(h, h.get(i.ID))
				h.wantUpAt(i.ID, at, c.kind)
			})
		})
	}
}

// A boot that takes longer than anybody waits for services, or than the agent lives, is measured
// all the same: the next one for a timer begins as early.
func TestTimerKnowsBootsThatNobodyWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		waits   time.Duration
		becomes func(h *idleHost)
	}{
		"given up":            {20 * time.Second, func(*idleHost) {}},
		"another agent waits": {time.Hour, func(h *idleHost) { h.waiting(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				h.waiting(c.waits)
				h.do(i.ID, mvm.OpStop)
				h.behave(i.ID, fake.Behavior{Boot: bootOfLarge, ReadyAfter: readyOfLarge})
				if err := h.try(i.ID, mvm.OpStart); err == nil {
					h.t.Fatal("nobody had to wait for services")
				}
				c.becomes(h)
				h.after(largeBoots, i.ID)
				if took := h.bootTook(i.ID); took < largeBoots || took > largeBoots+30*time.Second {
					h.t.Fatalf("a boot that took %s is on record with %s", largeBoots, took)
				}
				at := time.Now().Add(3 * time.Hour).UTC().Truncate(time.Millisecond)
				h.sleeps(i.ID, at)
				h.lose(h.get(i.ID), "snapshots")
				now := h.after(time.Until(at)-time.Second, i.ID)
				if now.State != mvm.StateRunning || !now.Ready || now.Last.Kind != "cold" {
					h.t.Errorf("a second before its next wake it is %s, ready %v, after a %s %s", now.State, now.Ready, now.Last.Kind, now.Last.Op)
				}
			})
		})
	}
}

// bootTook is how long the last boot took, as `mvm why` has it; 0: it does not know.
func (h *idleHost) bootTook(id string) (took time.Duration) {
	h.t.Helper()
	story, err := h.a.Why(ctx(h.t), mvm.Address{Instance: id})
	must(h.t, err)
	for _, tr := range story.Transitions {
		if store.Booted(tr) {
			took = tr.Took
		}
	}
	return took
}
