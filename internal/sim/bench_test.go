package sim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/store"
)

// The host of the benchmark: tenants with a pool each, whose instances belong to users
// and sleep.
const (
	benchTenants = 100
	benchEach    = 100
	benchWakes   = 21
)

// BenchmarkTenThousand measures one agent with 10,000 sleeping instances, on the fake
// driver and with its store in memory, each figure beside a reference of the same run.
func BenchmarkTenThousand(b *testing.B) {
	w := newWorld(b, 1)
	w.s.setOff(true)
	fillHost(b, w)
	for b.Loop() {
		before := liveBytes()
		began := time.Now()
		w.bootNow(b)
		opened := time.Since(began)
		w.reconcileAll(b)
		n := benchTenants * benchEach
		heap, record := float64(liveBytes()-before)/float64(n), w.recordBytes(b)
		read := w.readAll(b)
		pass, allocs, bytes := w.reconcileAll(b)
		idle := w.wakes(b)
		busy := w.wakesBeside(b)
		figure := func(name, format string, v, ref any, of string) {
			b.Logf("%-52s "+format+"  (%s "+format+")", name, v, of, ref)
		}
		figure("agent's start", "%9s", ms(opened), ms(read), "reading all records once")
		figure("reconcile of all, nothing changed", "%9s", ms(pass), ms(read), "reading all records once")
		figure("  allocations per instance", "%9.1f", float64(allocs)/float64(n), 1.0, "instances")
		figure("  bytes allocated per instance", "%9.0f", float64(bytes)/float64(n), record, "its record in the store")
		figure("memory per sleeping instance in bytes", "%9.0f", heap, record, "its record in the store")
		figure("wake while all are reconciled, median", "%9s", ms(mid(busy)), ms(mid(idle)), "the same on an idle agent")
		figure("  the first", "%9s", ms(busy[0]), ms(mid(idle)), "median on an idle agent")
		figure("  the slowest", "%9s", ms(slices.Max(busy)), ms(slices.Max(idle)), "the same on an idle agent")
		b.ReportMetric(pass.Seconds()*1e3, "reconcile-ms")
		b.ReportMetric(heap, "B/sleeper")
		b.ReportMetric(busy[0].Seconds()*1e3, "first-wake-ms")
		w.endNow(b)
	}
	w.host.Close()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

func mid(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// liveBytes is the heap in use after a collection.
func liveBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (w *world) bootNow(b *testing.B) {
	b.Helper()
	w.boot()
	for l := w.life; !l.is(&l.opened); time.Sleep(time.Millisecond) {
		if l.failedOpen() {
			b.Fatal(l.failed)
		}
	}
}

func (w *world) endNow(b *testing.B) {
	b.Helper()
	if err := w.life.a.Close(); err != nil {
		b.Fatal(err)
	}
	if err := w.life.st.Close(); err != nil {
		b.Fatal(err)
	}
}

func benchTenant(n int) string { return fmt.Sprintf("t%03d", n) }

func benchDeployment(n int) mvm.Deployment {
	q := mvm.DefaultQuota()
	q.MaxInstancesPerPool = benchEach
	return mvm.Deployment{Tenant: mvm.TenantSpec{ID: benchTenant(n), Quota: &q},
		Pools: []mvm.PoolSpec{{ID: "w", Role: mvm.RoleWorker, Profile: "minimal", Flake: "sim:0", Resources: mvm.Resources{VCPUs: 1, MemMiB: 128},
			Policy: mvm.RuntimePolicy{WarmAfterSeconds: 3600, SleepAfterSeconds: 7200}}}}
}

// fillHost makes the tenants, each with one real sleeper, and writes the others' records.
func fillHost(b *testing.B, w *world) {
	b.Helper()
	w.bootNow(b)
	ctx := mvm.WithAsker(b.Context(), mvm.ParseAsker("api:bench"))
	a := w.life.a
	for n := range benchTenants {
		if _, err := a.Apply(ctx, benchDeployment(n), mvm.ApplyOptions{}, nil); err != nil {
			b.Fatal(err)
		}
		if _, err := a.BuildPool(ctx, benchTenant(n), "w", nil); err != nil {
			b.Fatal(err)
		}
		i, err := a.CreateInstance(ctx, benchTenant(n), "w", "u0")
		for _, op := range []mvm.OpKind{mvm.OpStart, mvm.OpSleep} {
			if err == nil {
				_, err = a.Operate(ctx, i.Address(), mvm.OpRequest{Op: op}, nil)
			}
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := w.life.st.Update(func(tx *store.Tx) error { return multiply(tx, w) }); err != nil {
		b.Fatal(err)
	}
	w.endNow(b)
}

// multiply gives each tenant's first sleeper its fellows.
func multiply(tx *store.Tx, w *world) error {
	tenants, err := tx.Tenants()
	if err != nil {
		return err
	}
	for _, t := range tenants {
		all, err := tx.Instances(t.ID, "w")
		if err != nil {
			return err
		}
		for n := 1; n < benchEach; n++ {
			i := all[0]
			var id [4]byte
			if _, err := w.ids.Read(id[:]); err != nil {
				return err
			}
			i.ID, i.Key = fmt.Sprintf("i-%x", id), fmt.Sprintf("u%d", n)
			i.Offset = all[0].Offset + n
			i.IP, _ = mvm.SubnetAddr(t.Subnet, i.Offset)
			i.MAC = mvm.MAC(t.NetID, i.Offset).String()
			if i.UID, err = tx.AllocUID(); err != nil {
				return err
			}
			if err := tx.PutInstance(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// reconcileAll has every tenant reconciled, to the end, and says what that took.
func (w *world) reconcileAll(b *testing.B) (took time.Duration, allocs, bytes uint64) {
	b.Helper()
	var was, is runtime.MemStats
	runtime.ReadMemStats(&was)
	began := time.Now()
	for n := range benchTenants {
		steps, err := w.life.a.Apply(mvm.WithAsker(b.Context(), mvm.ParseAsker("api:bench")), benchDeployment(n), mvm.ApplyOptions{}, nil)
		if err != nil || len(steps) > 0 {
			b.Fatalf("reconcile of an unchanged state: %v, %v", steps, err)
		}
	}
	took = time.Since(began)
	runtime.ReadMemStats(&is)
	return took, is.Mallocs - was.Mallocs, is.TotalAlloc - was.TotalAlloc
}

// readAll reads every instance once.
func (w *world) readAll(b *testing.B) time.Duration {
	b.Helper()
	began := time.Now()
	all, err := w.life.a.Instances(b.Context(), mvm.Address{})
	if err != nil || len(all) != benchTenants*benchEach {
		b.Fatalf("%d instances, %v", len(all), err)
	}
	return time.Since(began)
}

// recordBytes is the size of a sleeper's record.
func (w *world) recordBytes(b *testing.B) float64 {
	b.Helper()
	all, err := w.life.a.Instances(b.Context(), mvm.Address{Tenant: benchTenant(0)})
	if err != nil {
		b.Fatal(err)
	}
	raw, err := json.Marshal(all[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(len(raw))
}

// wakes measures wakes of sleepers, one after the other.
func (w *world) wakes(b *testing.B) (took []time.Duration) {
	b.Helper()
	ctx := mvm.WithAsker(b.Context(), mvm.ParseAsker("api:bench"))
	for n := range benchWakes {
		addr := mvm.Address{Tenant: benchTenant(n), Pool: "w", Key: "u0"}
		began := time.Now()
		i, err := w.life.a.Operate(ctx, addr, mvm.OpRequest{Op: mvm.OpWake}, nil)
		took = append(took, time.Since(began))
		if err != nil || i.Last.Kind != "warm" {
			b.Fatalf("wake: %+v, %v", i.Last, err)
		}
		if _, err := w.life.a.Operate(ctx, addr, mvm.OpRequest{Op: mvm.OpSleep}, nil); err != nil {
			b.Fatal(err)
		}
	}
	return took
}

// wakesBeside measures them while everything is reconciled again and again.
func (w *world) wakesBeside(b *testing.B) []time.Duration {
	b.Helper()
	ctx, stop := context.WithCancel(mvm.WithAsker(b.Context(), mvm.ParseAsker("api:bench")))
	var wg sync.WaitGroup
	began := make(chan struct{})
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := w.life.a.Apply(ctx, benchDeployment(benchWakes+n%(benchTenants-benchWakes)), mvm.ApplyOptions{}, nil); err != nil && ctx.Err() == nil {
				b.Error(err)
			}
			if n == 0 {
				close(began)
			}
		}
	})
	<-began
	defer wg.Wait()
	defer stop()
	return w.wakes(b)
}
