package sim_test

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag   = flag.Uint64("seed", 1, "the seed, or the first of several, of TestSeed and TestSimulation")
	seedsFlag  = flag.Int("seeds", 0, "how many seeds; 0 is one for TestSeed and 60 for TestSimulation")
	stepsFlag  = flag.Int("steps", 500, "how many steps each seed has")
	rareFlag   = flag.Bool("rare", false, "look for the variants that few seeds tell from the program, too")
	pointsFlag = flag.String("points", "", "write the trace of the last seed to this file") // go test takes -trace for itself
)

// childEnv marks the process that simulates.
const childEnv = "MVM_SIM_CHILD"

// TestSimulation simulates many seeds: 60 of 500 steps where nothing else is said (`make sim`
// takes more), fewer with the race detector and with -short.
func TestSimulation(t *testing.T) {
	seeds, batch := *seedsFlag, 10
	if seeds == 0 {
		seeds = 60
	}
	if *seedsFlag == 0 && (raceDetector || testing.Short()) {
		seeds, batch = 4, 2
	}
	began, steps, deaths := time.Now(), 0, 0
	var mu sync.Mutex
	parallel(runtime.NumCPU(), (seeds+batch-1)/batch, func(n int) {
		first := *seedFlag + uint64(n*batch)
		out, err := child(t, first, min(batch, seeds-n*batch), *stepsFlag)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("%v: %s", err, failureIn(out))
		}
		for _, r := range resultsIn(out) {
			steps, deaths = steps+r.steps, deaths+r.deaths
		}
	})
	t.Logf("%d seeds, %d steps, %d deaths of the agent in %s", seeds, steps, deaths, time.Since(began).Round(time.Second))
	if want := seeds * *stepsFlag; steps < want && !t.Failed() {
		t.Errorf("%d steps were simulated, want %d", steps, want)
	}
}

// TestReplay: a seed that runs again runs the same way, to the last point of its trace.
// `make test-sim` runs it: with the race detector Go's scheduler is random on purpose.
func TestReplay(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has the runtime order goroutines at random, so that no two runs are alike; make test-sim replays")
	}
	const runs, seeds, steps = 4, 12, 300
	var mu sync.Mutex
	seen := map[string]int{}
	parallel(2, runs, func(int) {
		out, err := child(t, *seedFlag, seeds, steps)
		if err != nil {
			t.Errorf("%v: %s", err, failureIn(out))
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range resultsIn(out) {
			seen[r.line]++
		}
	})
	all := 0
	for _, n := range seen {
		all += n
	}
	t.Logf("%d runs of %d seeds in %d ways", all, seeds, len(seen))
	if len(seen) != seeds || all != runs*seeds {
		t.Errorf("the same seeds run differently: %v", seen)
	}
}

// result is the line that a seed ends with.
type result struct {
	line          string
	steps, deaths int
}

func resultsIn(out string) (all []result) {
	for line := range strings.Lines(out) {
		r := result{line: strings.TrimSpace(line)}
		var seed uint64
		var moves int
		if _, err := fmt.Sscanf(r.line, "seed %d steps %d moves %d deaths %d", &seed, &r.steps, &moves, &r.deaths); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// failureIn is what of a child's output tells of its failure.
func failureIn(out string) string {
	if i := strings.Index(out, "--- FAIL"); i >= 0 {
		out = out[max(0, i-200):]
	}
	const most = 20_000
	if len(out) > most {
		out = out[:most/2] + "\n…\n" + out[len(out)-most/2:]
	}
	return out
}

// parallel calls fn with 0 to count-1, so many at a time.
func parallel(atOnce, count int, fn func(n int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for n := range count {
		slots <- struct{}{}
		wg.Go(func() { defer func() { <-slots }(); fn(n) })
	}
	wg.Wait()
}

// TestSeed simulates the seed, or -seeds of them, in a process of its own.
func TestSeed(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		for n := range max(1, *seedsFlag) {
			simulate(t, *seedFlag+uint64(n), *stepsFlag)
		}
		return
	}
	out, err := child(t, *seedFlag, max(1, *seedsFlag), *stepsFlag, "-points="+*pointsFlag)
	t.Log(out)
	if err != nil {
		t.Error(err)
	}
}

// child simulates seeds in a process of its own, whose Go code has one thread and is
// not interrupted.
func child(t *testing.T, seed uint64, seeds, steps int, more ...string) (string, error) {
	t.Helper()
	return childOf(t, os.Args[0], seed, seeds, steps, more...)
}

func childOf(t *testing.T, bin string, seed uint64, seeds, steps int, more ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"-test.run=^TestSeed$", "-test.v", "-test.timeout=30m",
		fmt.Sprint("-seed=", seed), fmt.Sprint("-seeds=", seeds), fmt.Sprint("-steps=", steps)}, more...)...)
	cmd.Env = append(os.Environ(), childEnv+"=1", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOGC=400")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// simulate runs one seed and prints one line about it, or all about its failure.
func simulate(t *testing.T, seed uint64, steps int) {
	var moves atomic.Pointer[sched]
	stop := watch(seed, &moves)
	defer stop()
	began := time.Now()
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			moves.Store(w.s)
			w.runSteps(steps)
			if *pointsFlag != "" {
				if err := os.WriteFile(*pointsFlag, []byte(w.trace.tail(math.MaxInt)+"\n"), 0o600); err != nil {
					t.Error(err)
				}
			}
			fmt.Printf("seed %d steps %d moves %d deaths %d virtual %s trace %s\n", seed, w.steps, w.s.moves.Load(), w.deaths,
				time.Since(w.began).Round(time.Second), w.trace.digest())
			if f := w.failed(); f != "" {
				t.Errorf("seed %d, step %d: %s\nthe end of its trace:\n%s\nreplay: go test ./internal/sim -run TestSeed -seed=%d -steps=%d",
					seed, w.steps, f, w.trace.tail(60), seed, steps)
			}
		})
	})
	if testing.Verbose() {
		fmt.Printf("seed %d took %s\n", seed, time.Since(began).Round(time.Millisecond))
	}
}

// watch ends the process with every goroutine's stack when the simulation stands
// still: something waits for what the scheduler does not see.
func watch(seed uint64, s *atomic.Pointer[sched]) (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		last, same := int64(-1), 0
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Second):
			}
			now := int64(0)
			if p := s.Load(); p != nil {
				now = p.moves.Load()
			}
			if same++; now != last {
				last, same = now, 0
			}
			if same > 11 { // a minute: others may have all of the CPU for a while
				var b strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
				fmt.Printf("seed %d stands still\n%s\n", seed, b.String())
				os.Exit(3)
			}
		}
	}()
	return func() { close(done); <-gone }
}
