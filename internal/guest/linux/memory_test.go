package linux_test

import (
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"testing"

	"mvm/internal/guest/linux"
)

// TestLimitMemory: the limit is half of what the kernel says there is.
func TestLimitMemory(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(was)
	if err := linux.LimitMemory(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^MemTotal: +(\d+) kB$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no total in %s", b)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if got := debug.SetMemoryLimit(-1); err != nil || got != kib<<10/2 {
		t.Errorf("the limit is %d, want half of %d KiB", got, kib)
	}
}
