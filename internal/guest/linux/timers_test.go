package linux_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/guest/linux"
)

// TestCoarseTimers: all threads have them, those of the runtime too.
func TestCoarseTimers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("letting other threads' timers be late needs root")
	}
	if err := linux.CoarseTimers(); err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, dir := range threads {
		b, err := os.ReadFile(filepath.Join("/proc", filepath.Base(dir), "timerslack_ns"))
		if os.IsNotExist(err) {
			continue // it has ended
		}
		if got := strings.TrimSpace(string(b)); err != nil || got != "1000000" {
			t.Errorf("the timers of thread %s may be late by %s ns, %v; want 1000000", filepath.Base(dir), got, err)
		}
	}
}
