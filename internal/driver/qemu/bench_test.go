package qemu_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/guestproto"
	"mvm/internal/jail"
	"mvm/internal/sys"
)

// BenchmarkSleepWake puts a guest to sleep and wakes it, and reports medians in
// milliseconds, what QEMU alone takes to restore and run the same snapshot ("plain"), what a copy
// of as many bytes to fresh memory takes, the ratio of the wake to both together, and what the
// sleeper holds on disk:
//
//	go test -run '^$' -bench SleepWake -benchtime 20x ./internal/driver/qemu
func BenchmarkSleepWake(b *testing.B) {
	h := newHost(b)
	d := h.driver(b)
	spec := h.spec(b, "i-0000be0c")
	if err := d.Destroy(b.Context(), spec); err != nil { // warm up what is found out once
		b.Fatal(err)
	}
	if _, err := d.Info(b.Context()); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	v, err := d.Start(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	ping(b, v)
	boot := time.Since(start)
	snap := drivertest.Snapshot(b, spec)
	took := map[string][]time.Duration{"boot": {boot}}
	var bytes int64
	for b.Loop() {
		lap := laps(took)
		must(b, v.Pause(b.Context()))
		lap("pause")
		must(b, v.Snapshot(b.Context(), snap))
		lap("snapshot")
		must(b, v.Kill(b.Context()))
		lap("kill")
		must(b, v.Close())
		bytes = allocated(b, drivertest.SnapshotFiles(b, snap)...)
		took["copy"] = append(took["copy"], plainCopy(b, bytes))
		took["plain"] = append(took["plain"], plainRestore(b, spec, asOlder(b, spec, snap)))
		must(b, os.Remove(snap.State))
		lap = laps(took)
		if v, err = d.Restore(b.Context(), spec, snap); err != nil {
			b.Fatal(err)
		}
		lap("restore")
		must(b, v.Resume(b.Context()))
		lap("resume")
		ping(b, v)
		lap("answer")
		v = readyRound(b, took, d, spec, snap, v)
	}
	must(b, v.Kill(b.Context()))
	must(b, v.Close())
	for what, ds := range took {
		slices.Sort(ds)
		b.ReportMetric(median(ds), what+"-ms")
	}
	b.ReportMetric((median(took["ready.restore"])+median(took["ready.resume"]))/median(took["plain"]), "ready-ratio")
	b.ReportMetric((median(took["restore"])+median(took["resume"]))/(median(took["plain"])+median(took["copy"])), "ratio")
	b.ReportMetric(float64(bytes)/(1<<20), "sleeper-MiB")
}

// readyRound puts the guest to sleep, makes its memory ready, and wakes it from that.
func readyRound(b *testing.B, took map[string][]time.Duration, d *qemu.Driver, spec driver.Spec, snap driver.Snapshot, v driver.VMM) driver.VMM {
	b.Helper()
	must(b, v.Pause(b.Context()))
	lap := laps(took)
	must(b, v.Snapshot(b.Context(), snap))
	lap("ready.snapshot")
	must(b, v.Kill(b.Context()))
	must(b, v.Close())
	lap = laps(took)
	r, err := atrest.MakeReady(b.Context(), spec.Dir, snap, spec.MemMiB, atrest.All)
	must(b, err)
	lap("ready.make")
	snap.Ready = r
	lap = laps(took)
	v, err = d.Restore(b.Context(), spec, snap)
	must(b, err)
	lap("ready.restore")
	must(b, v.Resume(b.Context()))
	lap("ready.resume")
	ping(b, v)
	lap("ready.answer")
	if !r.Taken() {
		b.Error("the guest woke from its segments")
	}
	b.ReportMetric(float64(r.Bytes)/(1<<20), "ready-MiB")
	must(b, r.Close())
	return v
}

// median is that of sorted times, in milliseconds.
func median(ds []time.Duration) float64 { return float64(ds[len(ds)/2].Microseconds()) / 1000 }

// plainCopy copies so many bytes to a fresh private mapping.
func plainCopy(b *testing.B, bytes int64) time.Duration {
	b.Helper()
	const part = 1 << 20
	from := make([]byte, part)
	for n := range from {
		from[n] = byte(n)
	}
	start := time.Now()
	to, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(b, err)
	defer func() { must(b, unix.Munmap(to)) }()
	for at := 0; at < len(to); at += part {
		copy(to[at:], from)
	}
	return time.Since(start)
}

// BenchmarkWakeInTheJail wakes two guests in turn, one behind all walls and one behind none,
// and reports medians in milliseconds and their ratio:
//
//	go test -run '^$' -bench WakeInTheJail -benchtime 40x ./internal/driver/qemu
func BenchmarkWakeInTheJail(b *testing.B) {
	type sleeper struct {
		d    *qemu.Driver
		spec driver.Spec
		v    driver.VMM
	}
	var both [2]sleeper
	for n, j := range []jail.Jail{walls(), {}} {
		h := newHost(b)
		h.jail = j
		s := sleeper{d: h.driver(b), spec: h.spec(b, fmt.Sprintf("i-0000be1%d", n))}
		v, err := s.d.Start(b.Context(), s.spec)
		must(b, err)
		b.Cleanup(func() { must(b, s.d.Destroy(context.Background(), s.spec)) })
		ping(b, v)
		s.v, both[n] = v, s
	}
	var took [2][]time.Duration
	for round := 0; b.Loop(); round++ {
		for i := range both {
			n := (i + round) % 2
			s := &both[n]
			snap := drivertest.Snapshot(b, s.spec)
			must(b, s.v.Pause(b.Context()))
			must(b, s.v.Snapshot(b.Context(), snap))
			must(b, s.v.Kill(b.Context()))
			must(b, s.v.Close())
			begun := time.Now()
			v, err := s.d.Restore(b.Context(), s.spec, snap)
			must(b, err)
			must(b, v.Resume(b.Context()))
			ping(b, v)
			took[n] = append(took[n], time.Since(begun))
			s.v = v
		}
	}
	for n := range both {
		must(b, both[n].v.Kill(b.Context()))
		must(b, both[n].v.Close())
		slices.Sort(took[n])
	}
	b.ReportMetric(median(took[0]), "jailed-ms")
	b.ReportMetric(median(took[1]), "plain-ms")
	b.ReportMetric(median(took[0])/median(took[1]), "ratio")
}

func laps(took map[string][]time.Duration) func(string) {
	last := time.Now()
	return func(what string) {
		took[what] = append(took[what], time.Since(last))
		last = time.Now()
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func allocated(t testing.TB, paths ...string) int64 {
	t.Helper()
	var sum int64
	for _, p := range paths {
		n, err := sys.AllocatedBytes(p)
		must(t, err)
		sum += n
	}
	return sum
}

// ping waits for the guest's answer.
func ping(t testing.TB, v driver.VMM) {
	t.Helper()
	c, err := v.Dial(t.Context(), guestproto.GuestPort)
	must(t, err)
	defer c.Close()
	resp, err := guestproto.Call(t.Context(), c, guestproto.Request{Ping: true})
	if err != nil || !resp.Pong {
		t.Fatalf("ping: %+v, %v", resp, err)
	}
}
