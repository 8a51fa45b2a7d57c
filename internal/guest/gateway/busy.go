package gateway

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// busy returns a function that reports whether the process has used more than seven eighths
// of the CPU time that there was since it was called before.
func busy() func() bool {
	cpus := time.Duration(runtime.GOMAXPROCS(0))
	var last, used time.Duration
	return func() bool {
		at, now := clock(unix.CLOCK_MONOTONIC), clock(unix.CLOCK_PROCESS_CPUTIME_ID)
		much := 8*(now-used) > 7*cpus*(at-last)
		last, used = at, now
		return much
	}
}

func clock(id int32) time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(id, &t) // it has no way to fail
	return time.Duration(t.Nano())
}
