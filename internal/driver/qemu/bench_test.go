package qemu_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// BenchmarkSleepWake puts a guest to sleep and wakes it, and reports medians in
// milliseconds, what QEMU alone takes to restore and run the same snapshot, and
// what the sleeper holds on disk:
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
	snap := driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
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
		bytes = allocated(b, spec.Memory, snap.State)
		took["plain"] = append(took["plain"], plainRestore(b, spec, snap))
		lap = laps(took)
		if v, err = d.Restore(b.Context(), spec, snap); err != nil {
			b.Fatal(err)
		}
		lap("restore")
		must(b, v.Resume(b.Context()))
		lap("resume")
		ping(b, v)
		lap("answer")
	}
	must(b, v.Kill(b.Context()))
	must(b, v.Close())
	for what, ds := range took {
		slices.Sort(ds)
		b.ReportMetric(float64(ds[len(ds)/2].Microseconds())/1000, what+"-ms")
	}
	b.ReportMetric(float64(bytes)/(1<<20), "sleeper-MiB")
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
