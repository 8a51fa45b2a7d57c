package vm_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"mvm"
)

var soakFlag = flag.Duration("soak", 75*time.Second, "how long TestSoak goes on")

// soakPools is what a soak runs: workers without a service of their own, that are
// changed at will.
func soakPools(running, mem int) string {
	return fmt.Sprintf(`
[tenant]
id = "acme"
[[pools]]
id = "workers"
flake = "builtin:minimal"
vcpus = 1
mem_mib = %d
data_disk_mib = 16
desired_running = %d
env = { SOAK = "%d" }
min_running_seconds = 0
min_warm_seconds = 0
drain_timeout_seconds = 1
graceful_shutdown_seconds = 5
`, mem, running, running)
}

// soak is one agent in use.
// leastSamples can be compared, the first third with the last.
const leastSamples = 7

type soak struct {
	*host
	rng     *rand.Rand
	did     map[string]int
	samples []mvm.NodeStats
}

// TestSoak has one agent serve its API while instances sleep, wake, are deployed anew
// and scaled, and their VMMs and the agent's own clients are killed. At the end it has
// no more memory, goroutines and files than at the beginning, and nothing is left.
// -soak says how long it goes on.
func TestSoak(t *testing.T) {
	s := &soak{host: newHost(t, "qemu"), rng: rand.New(rand.NewPCG(1, 2)), did: map[string]int{}}
	s.rest()
	s.sample()
	end, next := time.Now().Add(*soakFlag), time.Time{}
	for time.Now().Before(end) || len(s.samples) < leastSamples { // a busy machine does less in the time
		s.act()
		if time.Now().After(next) {
			s.rest()
			s.sample()
			next = time.Now().Add(*soakFlag / 30)
		}
	}
	s.rest()
	s.sample()
	pid := s.agent.Process.Pid
	info, err := s.client.NodeInfo(s.ctx())
	must(t, err)
	if info.PID != pid {
		t.Errorf("the agent is process %d, and was %d", info.PID, pid)
	}
	t.Logf("done: %v, in %s", s.did, time.Since(end.Add(-*soakFlag)).Round(time.Second))
	s.flat()
}

// act does one thing to the host.
func (s *soak) act() {
	kinds := []string{"sleep", "wake", "sleep", "wake", "warm", "resume", "kill vmm", "scale", "resize", "give up"}
	kind := kinds[s.rng.IntN(len(kinds))]
	all := s.instances()
	i := all[s.rng.IntN(len(all))]
	switch kind {
	case "kill vmm":
		st, err := s.client.Stats(s.ctx(), mvm.Address{Instance: i.ID})
		if err != nil || st.PID == 0 {
			return
		}
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			s.t.Fatalf("kill VMM: %v", err)
		}
	case "scale":
		s.deployWith(soakPools(1+s.rng.IntN(3), 128), mvm.ApplyOptions{Force: true}) // what was done by hand before is over
	case "resize":
		s.deployWith(soakPools(1, 128+32*s.rng.IntN(2)), mvm.ApplyOptions{Force: true})
	case "give up": // a client that is killed while it waits
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.rng.IntN(200))*time.Millisecond)
		_, _ = s.client.Operate(ctx, mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil)
		cancel()
	default:
		// What the instance's state does not allow is refused, and that is fine.
		if _, err := s.try(i.ID, mvm.OpKind(kind)); err != nil {
			kind = "refused " + kind
		}
	}
	s.did[kind]++
}

// rest brings the host to what every sample is taken of: one running worker.
func (s *soak) rest() {
	s.t.Helper()
	began := time.Now()
	for {
		s.deployWith(soakPools(1, 128), mvm.ApplyOptions{Force: true})
		for _, i := range s.instances() {
			if i.State == mvm.StateStopped || i.State == mvm.StateReady {
				_, _ = s.client.Operate(s.ctx(), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpDestroy}, nil)
			}
		}
		held := 0
		quiet := true
		for _, i := range s.instances() {
			quiet = quiet && i.Op == nil && (i.State == mvm.StateRunning && i.Ready || i.State == mvm.StateSleeping)
			if i.State.HoldsMemory() {
				held++
			}
		}
		if quiet && held == 1 {
			return
		}
		s.sleepOne()
		if time.Since(began) > patience {
			s.t.Fatalf("the host does not come to rest: %+v\n%s", s.instances(), s.log())
		}
		time.Sleep(100 * time.Millisecond) // the pause between two looks
	}
}

// sleepOne puts a worker to sleep that is more than one: reconcile leaves alone what a
// person has changed.
func (s *soak) sleepOne() {
	var up []mvm.Instance
	for _, i := range s.instances() {
		if i.State.HoldsMemory() {
			up = append(up, i)
		}
	}
	for _, i := range up {
		if len(up) > 1 || i.State == mvm.StateWarm {
			_, _ = s.try(i.ID, map[bool]mvm.OpKind{true: mvm.OpSleep, false: mvm.OpResume}[len(up) > 1])
			return
		}
	}
	if all := s.instances(); len(up) == 0 && len(all) > 0 {
		_, _ = s.try(all[0].ID, mvm.OpStart)
	}
}

// sample measures the agent, after a garbage collection of a host at rest.
func (s *soak) sample() {
	s.t.Helper()
	must(s.t, s.agent.Process.Signal(syscall.SIGCONT)) // it is there
	n, err := s.client.NodeStats(s.ctx())
	must(s.t, err)
	s.samples = append(s.samples, n)
	s.t.Logf("%3d: RSS %5.1f MiB, heap %5.2f MiB, %d goroutines, %d files, %v", len(s.samples), mib(n.AgentRSS), mib(n.AgentHeap),
		n.Goroutines, n.OpenFiles, n.Instances)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// flat compares the first third of the samples, without the very first, with the last.
func (s *soak) flat() {
	third := len(s.samples) / 3
	first, last := s.samples[1:1+third], s.samples[len(s.samples)-third:]
	for _, c := range []struct {
		what  string
		of    func(mvm.NodeStats) float64
		slack float64 // beyond a tenth more
	}{
		{"RSS in MiB", func(n mvm.NodeStats) float64 { return mib(n.AgentRSS) }, 6},
		{"heap in MiB", func(n mvm.NodeStats) float64 { return mib(n.AgentHeap) }, 2},
		{"goroutines", func(n mvm.NodeStats) float64 { return float64(n.Goroutines) }, 3},
		{"open files", func(n mvm.NodeStats) float64 { return float64(n.OpenFiles) }, 3},
	} {
		a, b := medianOf(first, c.of), medianOf(last, c.of)
		s.t.Logf("%-12s median early %8.1f, late %8.1f", c.what, a, b)
		if b > a*1.1+c.slack {
			s.t.Errorf("%s grew from %.1f to %.1f", c.what, a, b)
		}
	}
}

func medianOf(all []mvm.NodeStats, of func(mvm.NodeStats) float64) float64 {
	var v []float64
	for _, n := range all {
		v = append(v, of(n))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
