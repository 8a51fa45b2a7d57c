package qemu_test

import (
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/sys"
)

// asOlder makes of a sealed snapshot one as older versions left it: the memory in Spec.Memory
// and the device state beside it, in the clear. The sealed one stays.
func asOlder(t testing.TB, spec driver.Spec, snap driver.Snapshot) driver.Snapshot {
	t.Helper()
	s, err := atrest.Open(spec.Dir, snap, spec.MemMiB)
	must(t, err)
	defer s.Close()
	f, err := os.OpenFile(spec.Memory, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(spec.MemMiB)<<20))
	must(t, s.Fill(t.Context(), f))
	must(t, os.WriteFile(snap.State, s.Device(), 0o600))
	return driver.Snapshot{State: snap.State}
}

// A snapshot that an older version left wakes, also when that version died over its end and
// left pages beside the state; damaged ones are told as the snapshot's. The next sleep seals
// all of the memory, and leaves nothing in the clear.
func TestSnapshotOfAnOlderVersion(t *testing.T)             { testSnapshotOfAnOlderVersion(t, false) }
func TestSnapshotOfAnOlderVersionThroughHostd(t *testing.T) { testSnapshotOfAnOlderVersion(t, true) }

func testSnapshotOfAnOlderVersion(t *testing.T, hostd bool) {
	h := newHost(t)
	h.hostd = hostd
	d, spec := h.driver(t), h.spec(t, "i-00016001")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 8)
	sleep(t, v, snap)
	old := asOlder(t, spec, snap)

	// The last pages of the memory are beside the state, and not where they belong.
	memory, err := os.OpenFile(spec.Memory, os.O_RDWR, 0)
	must(t, err)
	defer memory.Close()
	const last = 1024
	size := int64(spec.MemMiB) << 20
	data := make([]byte, last*sys.PageSize)
	_, err = memory.ReadAt(data, size-int64(len(data)))
	must(t, err)
	_, err = memory.WriteAt(make([]byte, len(data)), size-int64(len(data)))
	must(t, err)
	f, err := os.OpenFile(old.Pages(), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, qemu.WritePages(f, size, []sys.PageRun{{Page: size/sys.PageSize - last, Count: last}}, data))
	must(t, f.Close())
	pages, err := os.ReadFile(old.Pages())
	must(t, err)
	for _, at := range []int{0, 9, 20, len(pages) - 1} {
		bad := append([]byte(nil), pages...)
		bad[at] ^= 0x10
		must(t, os.WriteFile(old.Pages(), bad, 0o600))
		if v, err := d.Restore(t.Context(), spec, old); !driver.BadSnapshot(err) {
			t.Errorf("byte %d of the pages was changed: %v, %v; want an error about the snapshot", at, v, err)
		}
	}
	must(t, os.WriteFile(old.Pages(), pages, 0o600))
	v, err = d.Restore(t.Context(), spec, old) // until its guest has run again
	must(t, err)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	v = wake(t, d, spec, old)
	has(t, "woken", v, "/tmp/a", first)
	second := fill(t, v, "/tmp/b", 8)
	must(t, os.Remove(filepath.Join(filepath.Dir(snap.State), "map"))) // of the sleep before
	sleep(t, v, snap)
	if _, err := os.Stat(spec.Memory); !os.IsNotExist(err) {
		t.Errorf("the memory in the clear after a sleep: %v, want it gone", err)
	}
	v = wake(t, d, spec, snap)
	has(t, "after the next sleep", v, "/tmp/a", first)
	has(t, "after the next sleep", v, "/tmp/b", second)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}
