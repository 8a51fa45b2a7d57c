package host_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu"
	"mvm/internal/image"
	"mvm/internal/image/fakeimage"
	"mvm/internal/network/fakenet"
	"mvm/internal/publish"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// The host of the benchmark: so many instances that sleep, and of how many of them the
// reference is measured.
const (
	benchSleepers = 1000
	benchOldWay   = 50
)

// BenchmarkOpen measures the start of an agent with 1,000 sleeping instances with the QEMU
// driver, which looks for their VMMs in /proc. Beside it stand, in the same run, one look at
// all processes, and the look for each sleeper by itself (what Recover and Destroy do, which
// is three looks at all processes), measured with 50 and multiplied.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	run, err := os.MkdirTemp("", "mvm") // short: unix sockets
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(run) })
	log := slog.New(slog.DiscardHandler)
	d, err := qemu.New(qemu.Options{StateDir: filepath.Join(dir, "qemu"), Log: log})
	must(b, err)
	st, err := store.Open(filepath.Join(dir, "state.db"))
	must(b, err)
	b.Cleanup(func() { must(b, st.Close()) })
	images, err := image.Open(filepath.Join(dir, "images"), []image.Builder{fakeimage.New("builtin:")}, log)
	must(b, err)
	key, err := secrets.NewKey([]byte(strings.Repeat("k", secrets.KeySize)))
	must(b, err)
	network := fakenet.New()
	b.Cleanup(func() { must(b, network.Close()) })
	pub := publish.New(publish.Options{})
	b.Cleanup(func() { must(b, pub.Close()) })
	var all []mvm.Instance
	must(b, st.Update(func(tx *store.Tx) (err error) { all, err = writeSleepers(tx); return err }))
	for _, i := range all {
		must(b, os.MkdirAll(filepath.Join(dir, "instances", i.ID, "snapshots", i.Snapshot.ID), 0o700))
	}
	for b.Loop() {
		a := agent.New(agent.Options{DataDir: dir, RunDir: run, Version: "bench", Store: st, Driver: d, Network: network, Images: images,
			Sealer: key, Publisher: pub, Log: log, Reconcile: -1})
		began := time.Now()
		must(b, a.Open(context.Background()))
		opened := time.Since(began)
		must(b, a.Close())
		began = time.Now()
		if _, err := d.Survey(b.Context()); err != nil {
			b.Fatal(err)
		}
		look := time.Since(began)
		began = time.Now()
		for _, i := range all[:benchOldWay] {
			own := filepath.Join(dir, "instances", i.ID)
			spec := driver.Spec{ID: i.ID, Dir: own, RunDir: filepath.Join(run, "i", i.ID), UID: i.UID, GID: i.UID, Cgroup: "mvm-" + i.ID,
				VCPUs: 1, MemMiB: 128, Memory: filepath.Join(own, "memory"), Console: filepath.Join(own, "console")}
			if _, err := d.Recover(b.Context(), spec); !mvm.IsKind(err, mvm.KindNotFound) {
				b.Fatalf("recover of a sleeper: %v", err)
			}
			must(b, d.Destroy(b.Context(), spec))
		}
		oldWay := time.Since(began) * benchSleepers / benchOldWay
		b.Logf("start with %d sleepers %s; one look at all processes %s (%.1f times that); the look for each by itself %s (%.3f of that)",
			benchSleepers, ms(opened), ms(look), opened.Seconds()/look.Seconds(), ms(oldWay), opened.Seconds()/oldWay.Seconds())
		b.ReportMetric(opened.Seconds()*1e3, "open-ms")
		b.ReportMetric(opened.Seconds()/oldWay.Seconds(), "of-the-look-for-each")
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1e3) }

// writeSleepers puts a tenant on record with a pool of sleepers.
func writeSleepers(tx *store.Tx) (all []mvm.Instance, err error) {
	now := time.Now()
	t := mvm.Tenant{ID: "acme", NetID: 1, Subnet: netip.MustParsePrefix("10.240.0.0/16"), Quota: mvm.DefaultQuota(), Created: now}
	spec := mvm.PoolSpec{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Flake: "builtin:minimal", Resources: mvm.Resources{VCPUs: 1, MemMiB: 128}}
	if err := tx.ReserveNetID(t.ID, t.NetID, now); err != nil {
		return nil, err
	}
	if err := tx.PutTenant(t); err != nil {
		return nil, err
	}
	if err := tx.PutPool(mvm.Pool{Tenant: t.ID, Spec: spec, Created: now}); err != nil {
		return nil, err
	}
	for n := range benchSleepers {
		i := mvm.Instance{ID: fmt.Sprintf("i-%08x", n), Tenant: t.ID, Pool: spec.ID, Role: spec.Role, State: mvm.StateSleeping, Res: spec.Resources,
			Image: "sha256:" + strings.Repeat("0", 64), Created: now, Changed: now, Offset: n + 3, DiskGeneration: 1,
			Snapshot: &mvm.SnapshotRef{ID: fmt.Sprintf("s-%08x", n), DiskGeneration: 1, MemMiB: 128, Taken: now}}
		i.IP, _ = mvm.SubnetAddr(t.Subnet, i.Offset)
		i.MAC = mvm.MAC(t.NetID, i.Offset).String()
		if i.UID, err = tx.AllocUID(); err != nil {
			return nil, err
		}
		if err := tx.PutInstance(i); err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}
