package qemu

import (
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func rdtsc() uint64

// measureTSC returns the rate in kHz at which the host's time-stamp counter runs,
// which is what a guest under TCG reads. It takes 50 ms.
func measureTSC() int {
	rates := make([]float64, 5)
	for i := range rates {
		t0, c0 := bracket()
		time.Sleep(10 * time.Millisecond)
		t1, c1 := bracket()
		rates[i] = float64(c1-c0) / float64(t1-t0) * 1e6
	}
	slices.Sort(rates)
	return int(math.Round(rates[len(rates)/2]))
}

// bracket reads the counter and the clock as nearly together as it gets.
func bracket() (ns int64, tsc uint64) {
	best := int64(math.MaxInt64)
	for range 20 {
		var a, b unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &a)
		c := rdtsc()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &b)
		if d := b.Nano() - a.Nano(); d < best {
			best, ns, tsc = d, a.Nano()+d/2, c
		}
	}
	return ns, tsc
}
