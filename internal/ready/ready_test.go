package ready_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/policy"
	"mvm/internal/ready"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// host is one on which images are made out of nothing.
type host struct {
	t      *testing.T
	limits ready.Limits
	k      *ready.Keeper

	mu     sync.Mutex
	memory policy.Memory
	looks  int              // at memory
	size   map[string]int64 // of images, by instance
	slow   bool             // making takes until it is called off
	made   map[*driver.Ready]*os.File
	tiers  map[string]int
	told   int64
}

// run calls fn with a keeper that runs, and checks at the end that all memory was given back.
func run(t *testing.T, fn func(h *host)) {
	h := &host{t: t, memory: policy.Memory{TotalMiB: 1000, AvailableMiB: 900, Stalled: -1}, size: map[string]int64{}, made: map[*driver.Ready]*os.File{}, tiers: map[string]int{},
		limits: ready.Limits{Percent: 10, TenantPercent: 60, Keep: time.Hour, FreePercent: 5, StalledPercent: 10}}
	synctest.Test(t, func(t *testing.T) {
		h.k = ready.New(ready.Options{Limits: h.limits, Files: h.files, Make: h.make, Memory: h.measure, Metrics: h, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); h.k.Run(ctx) }()
		synctest.Wait()
		fn(h)
		synctest.Wait()
		cancel()
		<-ended
		h.k.Rests(h.sleeper("late", "late"))
		if n, bytes := h.k.Held(); n != 0 || bytes != 0 || h.told != 0 {
			t.Errorf("at the end %d images of %d bytes are kept, and %d told", n, bytes, h.told)
		}
		for r, f := range h.made {
			if _, err := f.Stat(); err == nil && !r.Taken() {
				t.Errorf("the memory of %s is open at the end", r.Snapshot)
			}
		}
	})
}

func (h *host) files(i mvm.Instance) (string, driver.Snapshot, error) {
	return "/" + i.ID, driver.Snapshot{ID: i.ID + "/" + i.Snapshot.ID}, nil
}

func (h *host) measure() (policy.Memory, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	return h.memory, nil
}

func (h *host) setMemory(m policy.Memory) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.memory = m
}

func (h *host) setSlow(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow = on
}

func (h *host) make(ctx context.Context, dir string, snap driver.Snapshot, memMiB int, admit func(int64) error) (*driver.Ready, error) {
	h.mu.Lock()
	bytes, slow := h.size[dir[1:]], h.slow
	h.mu.Unlock()
	if err := admit(bytes); err != nil {
		return nil, err
	}
	if slow {
		<-ctx.Done()
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	r := (&driver.Ready{Snapshot: snap.ID, MemMiB: memMiB, Bytes: bytes}).Over(f)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.made[r] = f
	return r, nil // also where it was called off too late
}

// Ready implements ready.Metrics.
func (h *host) Ready(bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = bytes
}

// Restored implements ready.Metrics.
func (h *host) Restored(tier string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tiers[tier]++
}

// sleeper is an instance that has just fallen asleep.
func (h *host) sleeper(tenant, id string) mvm.Instance {
	return mvm.Instance{ID: id, Tenant: tenant, State: mvm.StateSleeping, Res: mvm.Resources{MemMiB: 256},
		Snapshot: &mvm.SnapshotRef{ID: fmt.Sprintf("s-%d", rand.Int64()), Sealed: true}, Op: &mvm.Op{Kind: mvm.OpSleep}}
}

// rests has an instance fall asleep, and waits until its image was made, or refused.
func (h *host) rests(tenant, id string, bytes int64) mvm.Instance {
	i := h.sleeper(tenant, id)
	h.mu.Lock()
	h.size[id] = bytes
	h.mu.Unlock()
	time.Sleep(time.Millisecond) // so that all are of different ages
	h.k.Rests(i)
	synctest.Wait()
	return i
}

// kept fails the test unless just these have images.
func (h *host) kept(when string, want ...string) {
	h.t.Helper()
	n, _ := h.k.Held()
	ok := n == len(want)
	for _, id := range want {
		ok = ok && h.k.Bytes(id) > 0
	}
	if !ok {
		h.t.Errorf("%s: %d images are kept, want %v", when, n, want)
	}
}

// An image is used once, and is of the last sleep.
func TestTakenOnce(t *testing.T) {
	run(t, func(h *host) {
		h.rests("acme", "i-1", 10*mib)
		last := h.rests("acme", "i-1", 12*mib)
		h.kept("after two sleeps", "i-1")
		r := h.k.Take("i-1")
		if r == nil || r.Snapshot != "i-1/"+last.Snapshot.ID || r.Bytes != 12*mib {
			t.Fatalf("ready is %+v, want the snapshot %s", r, last.Snapshot.ID)
		}
		h.kept("after it was taken")
		if again := h.k.Take("i-1"); again != nil {
			t.Error("it was taken twice")
		}
		h.k.Restored(r) // not used
		_ = r.Take().Close()
		h.k.Restored(r)
		h.k.Restored(nil)
		if h.tiers[ready.TierReady] != 1 || h.tiers[ready.TierSegments] != 2 {
			t.Errorf("restores counted: %v", h.tiers)
		}
	})
}

// What does not sleep keeps no memory.
func TestOnlySleepers(t *testing.T) {
	run(t, func(h *host) {
		for name, change := range map[string]func(*mvm.Instance){
			"stopped":   func(i *mvm.Instance) { i.State = mvm.StateStopped },
			"destroyed": func(i *mvm.Instance) { i.Op = &mvm.Op{Kind: mvm.OpDestroy} },
			"stops":     func(i *mvm.Instance) { i.Op = &mvm.Op{Kind: mvm.OpStop} },
			"consumed":  func(i *mvm.Instance) { i.Snapshot.Consumed = true },
			"clear":     func(i *mvm.Instance) { i.Snapshot.Sealed = false },
			"none":      func(i *mvm.Instance) { i.Snapshot = nil },
		} {
			h.rests("acme", "i-1", 10*mib)
			h.kept(name+": before", "i-1")
			i := h.sleeper("acme", "i-1")
			change(&i)
			h.k.Rests(i)
			synctest.Wait()
			h.kept(name)
		}
		h.rests("acme", "i-1", 10*mib)
		h.k.Forget("i-1")
		h.kept("forgotten")
	})
}

// The images of all, and of a tenant, are bounded. First goes what is of a tenant with more than
// its share, and then what was not used for longest.
func TestBudget(t *testing.T) {
	run(t, func(h *host) { // 100 MiB, 60 for a tenant
		h.rests("b", "b-1", 20*mib)
		for n := range 4 {
			h.rests("a", fmt.Sprintf("a-%d", n), 20*mib)
		}
		h.kept("more than a tenant may have", "b-1", "a-1", "a-2", "a-3")
		h.rests("c", "c-1", 30*mib)
		h.kept("a third tenant", "b-1", "a-2", "a-3", "c-1")
		h.rests("a", "a-4", 61*mib)
		h.kept("more than a tenant may have at once", "b-1", "a-2", "a-3", "c-1")
		h.rests("b", "b-2", 10*mib)
		h.rests("b", "b-3", 10*mib)
		h.kept("a tenant within its share", "b-1", "b-2", "b-3", "a-3", "c-1")
	})
}

// Memory that the host needs is given back at the next look, or to who asks.
func TestHostNeedsMemory(t *testing.T) {
	run(t, func(h *host) {
		h.rests("a", "a-1", 20*mib)
		h.rests("a", "a-2", 20*mib)
		h.rests("b", "b-1", 20*mib)
		short := policy.Memory{TotalMiB: 1000, AvailableMiB: 90, Stalled: -1} // 10 % is to stay
		h.setMemory(short)
		time.Sleep(4 * time.Second) // 800 MiB are left until then
		h.kept("10 MiB short", "a-2", "b-1")
		h.setMemory(policy.Memory{TotalMiB: 1000, AvailableMiB: 110, Stalled: -1})
		h.rests("c", "c-1", 20*mib)
		h.kept("none is made", "a-2", "b-1")
		if !h.k.Relieve(short) {
			t.Error("nothing was given back to who asked")
		}
		h.kept("10 MiB short", "b-1")
		h.setMemory(policy.Memory{TotalMiB: 1000, AvailableMiB: 900, Stalled: 11})
		time.Sleep(3 * time.Second)
		h.kept("tasks wait for memory")
		if h.k.Relieve(short) {
			t.Error("what is not there was given back")
		}
	})
}

// The less memory the host has left, the sooner it is measured, and not at all while another does
// that anyway.
func TestMeasuresSeldom(t *testing.T) {
	run(t, func(h *host) {
		over := func(mib int) policy.Memory { // what must stay for images
			return policy.Memory{TotalMiB: 100_000, AvailableMiB: 10_000 + mib, Stalled: -1}
		}
		looks := func(in time.Duration, each func()) int {
			h.mu.Lock()
			before := h.looks
			h.mu.Unlock()
			for range int(in / (5 * time.Second)) {
				each()
				time.Sleep(5 * time.Second)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.looks - before
		}
		h.setMemory(over(50_000))
		if n := looks(time.Hour, func() {}); n != 0 {
			t.Errorf("without images it was measured %d times", n)
		}
		h.rests("a", "a-1", 20*mib)
		if n := looks(30*time.Minute, func() {}); n < 55 || n > 62 {
			t.Errorf("with much left it was measured %d times in half an hour, want every 30 s", n)
		}
		if n := looks(20*time.Minute, func() { h.k.Relieve(over(50_000)) }); n > 1 {
			t.Errorf("beside another who measures it was measured %d times", n)
		}
		h.setMemory(over(2560))
		time.Sleep(30 * time.Second)
		if n := looks(time.Minute, func() {}); n < 5 || n > 7 {
			t.Errorf("with 2.5 GiB left it was measured %d times in a minute, want every 10 s", n)
		}
		h.setMemory(over(1))
		time.Sleep(10 * time.Second)
		h.kept("nearly short", "a-1")
		h.setMemory(over(-1))
		time.Sleep(2 * time.Second)
		h.kept("short")
	})
}

// An image that is being made ends too when the host's memory gets short.
func TestShortWhileOneIsMade(t *testing.T) {
	run(t, func(h *host) {
		h.setSlow(true)
		h.rests("a", "a-1", 20*mib)
		h.k.Relieve(policy.Memory{TotalMiB: 1000, AvailableMiB: 90, Stalled: -1})
		synctest.Wait()
		h.setSlow(false)
		h.mu.Lock()
		made := len(h.made)
		h.mu.Unlock()
		if made != 1 {
			t.Error("it is still being made")
		}
		h.kept("after it was called off")
	})
}

// What nobody uses is given back.
func TestKeep(t *testing.T) {
	run(t, func(h *host) {
		h.rests("a", "a-1", 20*mib)
		time.Sleep(59 * time.Minute)
		h.kept("soon", "a-1")
		time.Sleep(2 * time.Minute)
		h.kept("later")
	})
}

// A wake does not wait for an image that is being made, and that is none then.
func TestCalledOff(t *testing.T) {
	run(t, func(h *host) {
		h.setSlow(true)
		h.rests("a", "a-1", 20*mib)
		h.rests("a", "a-2", 20*mib)
		if r := h.k.Take("a-1"); r != nil {
			t.Error("an image is ready that is being made")
		}
		h.setSlow(false)
		h.k.Forget("a-2")
		synctest.Wait()
		h.kept("after both were called off")
	})
}

// Nothing is kept where that is turned off.
func TestOff(t *testing.T) {
	k := ready.New(ready.Options{Metrics: &host{}})
	h := &host{t: t, k: k}
	k.Rests(h.sleeper("a", "a-1"))
	if r := k.Take("a-1"); r != nil {
		t.Error("something is ready")
	}
}

// Whatever happens, images stay within their bounds, are of the last sleep, and none is of who is
// awake.
func TestKeeperEqualsTheModel(t *testing.T) {
	for seed := range uint64(20) {
		run(t, func(h *host) {
			rng := rand.New(rand.NewPCG(seed, 0))
			last := map[string]string{} // of who sleeps
			for range 400 {
				tenant := fmt.Sprintf("t-%d", rng.IntN(4))
				id := fmt.Sprintf("%s-%d", tenant, rng.IntN(6))
				switch rng.IntN(10) {
				case 0, 1, 2, 3, 4:
					last[id] = h.rests(tenant, id, 1+rng.Int64N(70*mib)).Snapshot.ID
				case 5, 6:
					if r := h.k.Take(id); r != nil {
						if r.Snapshot != id+"/"+last[id] {
							t.Errorf("seed %d: %s is ready, and %q was the last sleep", seed, r.Snapshot, last[id])
						}
						_ = r.Close()
					}
					delete(last, id)
				case 7:
					h.k.Forget(id)
					delete(last, id)
				case 8:
					h.setMemory(policy.Memory{TotalMiB: 1000, AvailableMiB: rng.IntN(1000), Stalled: float64(rng.IntN(15))})
				default:
					time.Sleep(time.Duration(rng.Int64N(int64(40 * time.Minute))))
				}
				h.bounded(seed)
			}
		})
	}
}

func (h *host) bounded(seed uint64) {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	_, bytes := h.k.Held()
	sum, of := int64(0), map[string]int64{}
	for id := range h.size {
		n := h.k.Bytes(id)
		sum, of[id[:3]] = sum+n, of[id[:3]]+n
	}
	if bytes != sum || bytes != h.told || bytes > 100*mib {
		h.t.Errorf("seed %d: images of %d bytes are kept, %d told, %d summed up", seed, bytes, h.told, sum)
	}
	for tenant, n := range of {
		if n > 60*mib {
			h.t.Errorf("seed %d: %s has %d bytes", seed, tenant, n)
		}
	}
}
