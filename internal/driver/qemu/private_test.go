package qemu_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/driver/qemu/qmp"
	"mvm/internal/driver/qemu/spawn"
)

// fill has the guest write so many MiB to its memory, as a file. Read has it tell what is in
// a file.
func fill(t *testing.T, v driver.VMM, file string, mib int) (sum string) {
	t.Helper()
	run(t, v, "sh", "-c", fmt.Sprintf("head -c %d /dev/urandom >%s", mib<<20, file))
	return run(t, v, "md5sum", file)
}

// writeBytes is what the VMM has caused to be written to disks.
func writeBytes(t *testing.T, v driver.VMM) (n int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", v.PID()))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		fmt.Sscanf(line, "write_bytes: %d", &n)
	}
	return n
}

func sleep(t *testing.T, v driver.VMM, snap driver.Snapshot) {
	t.Helper()
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

func wake(t *testing.T, d driver.Driver, spec driver.Spec, snap driver.Snapshot) driver.VMM {
	t.Helper()
	v, err := d.Restore(t.Context(), spec, snap)
	must(t, err)
	must(t, v.Resume(t.Context()))
	return v
}

func has(t *testing.T, when string, v driver.VMM, file, sum string) {
	t.Helper()
	if got := run(t, v, "md5sum", file); got != sum {
		t.Errorf("%s, %s is %q, want %q", when, file, got, sum)
	}
}

// What a guest writes to its memory while it is awake gets to no disk, and its snapshot stays
// as it was. It gets into the next snapshot; a sleep that was called off changes nothing.
func TestMemoryIsPrivate(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00016000")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 8)
	sleep(t, v, snap)

	v = wake(t, d, spec, snap)
	asleep := hashes(t, snap)
	before := writeBytes(t, v)
	second := fill(t, v, "/tmp/b", 24)
	run(t, v, "sync")
	if n := writeBytes(t, v) - before; n > 1<<20 {
		t.Errorf("a guest that wrote 24 MiB to its memory had %d bytes written to disk", n)
	}
	if !maps.Equal(hashes(t, snap), asleep) {
		t.Error("a guest that runs changed its snapshot")
	}
	has(t, "awake", v, "/tmp/a", first)

	must(t, v.Pause(t.Context())) // and it is called off
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Resume(t.Context()))
	third := fill(t, v, "/tmp/a", 4)
	for path, sum := range asleep {
		if strings.HasPrefix(path, snap.Segments) && hash(t, path) != sum {
			t.Errorf("a sleep that was called off changed %s", path)
		}
	}
	run(t, v, "dd", "if=/dev/zero", "of=/tmp/zero", "bs=1M", "count=8")
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "after the second sleep", v, "/tmp/a", third)
	has(t, "after the second sleep", v, "/tmp/b", second)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// hashes are those of the files of a snapshot.
func hashes(t *testing.T, snap driver.Snapshot) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	for _, f := range drivertest.SnapshotFiles(t, snap) {
		out[f] = hash(t, f)
	}
	return out
}

// A sleep after a wake writes what the guest has changed since, and takes the rest from the
// segments that are there. What the guest had in its memory is on the disk in no other form
// than sealed.
func TestSleepWritesWhatChanged(t *testing.T)             { testSleepWritesWhatChanged(t, false) }
func TestSleepWritesWhatChangedThroughHostd(t *testing.T) { testSleepWritesWhatChanged(t, true) }

func testSleepWritesWhatChanged(t *testing.T, hostd bool) {
	h := newHost(t)
	h.hostd = hostd
	d, spec := h.driver(t), h.spec(t, "i-00016002")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	const mark = "what nobody may read at rest"
	run(t, v, "sh", "-c", "echo '"+mark+"' >/tmp/mark")
	first := fill(t, v, "/tmp/a", 40)
	leave := func() { // the agent dies, and the next one finds the snapshot committed
		must(t, v.Pause(t.Context()))
		must(t, v.Snapshot(t.Context(), snap))
		must(t, v.Close())
		d = h.driver(t)
		must(t, d.Destroy(t.Context(), spec))
	}
	leave()
	before := drivertest.SnapshotFiles(t, snap)
	v = wake(t, d, spec, snap)
	second := fill(t, v, "/tmp/b", 2)
	leave()
	var added int64
	for _, f := range drivertest.SnapshotFiles(t, snap) {
		if strings.HasPrefix(f, snap.Segments) && !slices.Contains(before, f) {
			added += allocated(t, f)
		}
		b, err := os.ReadFile(f)
		must(t, err)
		long := strings.HasPrefix(f, snap.Segments) // four bytes can be there by chance
		if strings.Contains(string(b), mark) || !long && strings.Contains(string(b), "QEVM") {
			t.Errorf("%s has in the clear what the guest had in its memory", f)
		}
	}
	if added == 0 || added > 32<<20 {
		t.Errorf("a guest that wrote 2 MiB beside its 40 had %d MiB written", added>>20)
	}
	v = wake(t, d, spec, snap)
	has(t, "after the second sleep", v, "/tmp/a", first)
	has(t, "after the second sleep", v, "/tmp/b", second)
	if got := run(t, v, "cat", "/tmp/mark"); got != mark {
		t.Errorf("the mark is %q", got)
	}
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// sharing is a driver whose VMMs map the memory file shared, as those of older versions do.
func (h *host) sharing(t *testing.T) *qemu.Driver {
	t.Helper()
	path, err := spawn.Binary("")
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "mvm") // the VMM's user gets there
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	script := filepath.Join(dir, "qemu")
	must(t, os.WriteFile(script, fmt.Appendf(nil, `#!/bin/bash
args=()
for a; do args+=("${a/share=off/share=on}"); done
exec %s "${args[@]}"
`, path), 0o755))
	d, err := qemu.New(qemu.Options{Binary: script, StateDir: filepath.Join(h.dir, "old"), Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	return d
}

// What an older version made works on: its VMMs, which share the memory file, are put to sleep,
// and its snapshots are woken.
func TestOfAnOlderVersion(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00016003")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 4)
	sleep(t, v, snap)

	older := h.sharing(t)
	v = wake(t, older, spec, asOlder(t, spec, snap)) // the memory file is the guest's from here on
	second := fill(t, v, "/tmp/b", 8)
	must(t, v.Close())
	v, err := d.Recover(t.Context(), spec)
	must(t, err)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "after the sleep of its VMM", v, "/tmp/a", first)
	has(t, "after the sleep of its VMM", v, "/tmp/b", second)
	sleep(t, v, snap)

	old := asOlder(t, spec, snap)
	v = wake(t, older, spec, old)
	third := fill(t, v, "/tmp/c", 2)
	must(t, v.Pause(t.Context()))
	must(t, v.Close())
	saveAsBefore(t, spec, old)
	killOutside(t, v.PID())
	must(t, d.Destroy(t.Context(), spec))
	for range 2 { // until its guest has run again
		v, err := d.Restore(t.Context(), spec, old)
		must(t, err)
		must(t, v.Kill(t.Context()))
		must(t, v.Close())
	}
	v = wake(t, d, spec, old)
	has(t, "woken from its snapshot", v, "/tmp/b", second)
	has(t, "woken from its snapshot", v, "/tmp/c", third)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "woken again", v, "/tmp/c", third)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// saveAsBefore saves the device state of a VMM as older versions did: a migration that leaves
// out shared memory.
func saveAsBefore(t *testing.T, spec driver.Spec, snap driver.Snapshot) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(spec.RunDir, "qmp.sock"), Net: "unix"})
	must(t, err)
	done := make(chan struct{})
	q, err := qmp.New(t.Context(), conn, func(e qmp.Event) {
		if e.Name == "MIGRATION" && strings.Contains(string(e.Data), "completed") {
			close(done)
		}
	})
	must(t, err)
	defer q.Close()
	must(t, q.Do(t.Context(), "migrate-set-capabilities", map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true}, {"capability": "events", "state": true}}}, nil))
	f, err := os.OpenFile(snap.State, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	must(t, err)
	defer f.Close()
	must(t, q.SendFile(t.Context(), "state", f))
	must(t, q.Do(t.Context(), "migrate", map[string]any{"uri": "fd:state"}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("the old way of saving does not end")
	}
}
