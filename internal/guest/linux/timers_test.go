package linux_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/linux"
)

// oneCPU is set in the process of a test that has one CPU.
const oneCPU = "MVM_TEST_ONE_CPU"

// TestCoarseTimers: where there is one CPU all threads have them, those of the runtime too.
// Where there are more none has: the runtime counts on short sleeps.
func TestCoarseTimers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("letting other threads' timers be late needs root")
	}
	before := slack(t)
	if err := linux.CoarseTimers(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(oneCPU) != "" {
		monitor := ""
		for id, got := range slack(t) {
			switch {
			case got == "10000000" && monitor == "":
				monitor = id
			case got != "1000000":
				t.Errorf("one CPU: the timers of thread %s may be late by %s ns, want 1000000", id, got)
			}
		}
		sleepsWhileOthersRun(t, monitor)
		return
	}
	if runtime.NumCPU() > 1 {
		for id, got := range slack(t) {
			if was := before[id]; was != "" && got != was {
				t.Errorf("%d CPUs: the timers of thread %s may be late by %s ns, were %s", runtime.NumCPU(), id, got, was)
			}
		}
	}
	withOneCPU(t)
}

// sleepsWhileOthersRun checks that the thread is the one that looks after the others: it alone
// sleeps for a time while a goroutine runs.
func sleepsWhileOthersRun(t *testing.T, thread string) {
	t.Helper()
	sleep := strconv.Itoa(unix.SYS_NANOSLEEP) + " "
	last := []byte("nothing")
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		for began := time.Now(); time.Since(began) < 5*time.Millisecond; { // runs
		}
		b, err := os.ReadFile(filepath.Join("/proc", thread, "syscall"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(b), sleep) {
			return
		}
		last = b
	}
	t.Errorf("thread %s, whose timers may be the latest, does not sleep while others run: %s", thread, last)
}

// slack is by how many ns the timers of each thread may be late.
func slack(t *testing.T) map[string]string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	all := map[string]string{}
	for _, dir := range threads {
		b, err := os.ReadFile(filepath.Join("/proc", filepath.Base(dir), "timerslack_ns"))
		if err == nil {
			all[filepath.Base(dir)] = strings.TrimSpace(string(b))
		} else if !os.IsNotExist(err) { // else it has ended
			t.Fatal(err)
		}
	}
	return all
}

// withOneCPU runs the test again in a process that may use one CPU: it has that from the
// thread which begins it, and that thread ends with the goroutine.
func withOneCPU(t *testing.T) {
	t.Helper()
	type result struct {
		out []byte
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			done <- result{nil, err}
			return
		}
		for cpu := 0; one.Count() == 0; cpu++ {
			if all.IsSet(cpu) {
				one.Set(cpu)
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			done <- result{nil, err}
			return
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestCoarseTimers$")
		cmd.Env = append(os.Environ(), oneCPU+"=1")
		out, err := cmd.CombinedOutput()
		done <- result{out, err}
	}()
	if r := <-done; r.err != nil {
		t.Errorf("with one CPU: %v\n%s", r.err, r.out)
	}
}
