package qemu_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/driver"
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
	snap := driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 8)
	sleep(t, v, snap)

	v = wake(t, d, spec, snap)
	memory, state := hash(t, spec.Memory), hash(t, snap.State)
	before := writeBytes(t, v)
	second := fill(t, v, "/tmp/b", 24)
	run(t, v, "sync")
	if n := writeBytes(t, v) - before; n > 1<<20 {
		t.Errorf("a guest that wrote 24 MiB to its memory had %d bytes written to disk", n)
	}
	if hash(t, spec.Memory) != memory || hash(t, snap.State) != state {
		t.Error("a guest that runs changed its snapshot")
	}
	has(t, "awake", v, "/tmp/a", first)

	must(t, v.Pause(t.Context())) // and it is called off
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Resume(t.Context()))
	third := fill(t, v, "/tmp/a", 4)
	if hash(t, spec.Memory) != memory {
		t.Error("a sleep that was called off changed the memory file")
	}
	run(t, v, "dd", "if=/dev/zero", "of=/tmp/zero", "bs=1M", "count=8")
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "after the second sleep", v, "/tmp/a", third)
	has(t, "after the second sleep", v, "/tmp/b", second)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// An agent that dies between the snapshot and its end leaves changed pages beside the state.
// A restore takes them from there, also twice; damaged ones are told as the snapshot's.
func TestPagesThatWereLeft(t *testing.T)             { testPagesThatWereLeft(t, false) }
func TestPagesThatWereLeftThroughHostd(t *testing.T) { testPagesThatWereLeft(t, true) }

func testPagesThatWereLeft(t *testing.T, hostd bool) {
	h := newHost(t)
	h.hostd = hostd
	d, spec := h.driver(t), h.spec(t, "i-00016001")
	snap := driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
	leave := func(v driver.VMM) { // the agent dies, and the next one finds the snapshot committed
		must(t, v.Pause(t.Context()))
		must(t, v.Snapshot(t.Context(), snap))
		must(t, v.Close())
		d = h.driver(t)
		must(t, d.Destroy(t.Context(), spec))
	}
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 8)
	leave(v)
	if _, err := os.Stat(snap.Whole()); err != nil {
		t.Errorf("of a guest that had booted: %v", err)
	}
	v = wake(t, d, spec, snap)
	second := fill(t, v, "/tmp/b", 8)
	leave(v)
	pages, err := os.ReadFile(snap.Pages())
	must(t, err)
	for range 2 {
		v, err := d.Restore(t.Context(), spec, snap)
		must(t, err)
		must(t, v.Kill(t.Context()))
		must(t, v.Close())
	}
	for _, at := range []int{0, 9, 20, 5000, len(pages) / 2, len(pages) - 1} {
		bad := append([]byte(nil), pages...)
		bad[at] ^= 0x10
		must(t, os.WriteFile(snap.Pages(), bad, 0o600))
		if v, err := d.Restore(t.Context(), spec, snap); !driver.BadSnapshot(err) {
			t.Errorf("byte %d of the pages was changed: %v, %v; want an error about the snapshot", at, v, err)
		}
	}
	must(t, os.WriteFile(snap.Pages(), pages[:len(pages)-100], 0o600))
	if _, err := d.Restore(t.Context(), spec, snap); !driver.BadSnapshot(err) {
		t.Errorf("the pages were cut off: %v, want an error about the snapshot", err)
	}
	must(t, os.WriteFile(snap.Pages(), pages, 0o600))
	v = wake(t, d, spec, snap)
	has(t, "awake", v, "/tmp/a", first)
	has(t, "awake", v, "/tmp/b", second)
	third := fill(t, v, "/tmp/c", 4)
	sleep(t, v, snap) // what was put into the VMM's memory is in this snapshot too
	if _, err := os.Stat(snap.Pages()); !os.IsNotExist(err) {
		t.Errorf("changed pages after a sleep that came to its end: %v", err)
	}
	v = wake(t, d, spec, snap)
	has(t, "after a whole sleep", v, "/tmp/a", first)
	has(t, "after a whole sleep", v, "/tmp/b", second)
	has(t, "after a whole sleep", v, "/tmp/c", third)
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
	snap := driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 4)
	sleep(t, v, snap)

	old := h.sharing(t)
	v = wake(t, old, spec, snap) // the memory file is the guest's from here on
	second := fill(t, v, "/tmp/b", 8)
	must(t, v.Close())
	v, err := d.Recover(t.Context(), spec)
	must(t, err)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "after the sleep of its VMM", v, "/tmp/a", first)
	has(t, "after the sleep of its VMM", v, "/tmp/b", second)
	sleep(t, v, snap)

	v = wake(t, old, spec, snap)
	third := fill(t, v, "/tmp/c", 2)
	must(t, v.Pause(t.Context()))
	must(t, v.Close())
	saveAsBefore(t, spec, snap)
	killOutside(t, v.PID())
	must(t, d.Destroy(t.Context(), spec))
	for range 2 { // until its guest has run again
		v, err := d.Restore(t.Context(), spec, snap)
		must(t, err)
		must(t, v.Kill(t.Context()))
		must(t, v.Close())
	}
	v = wake(t, d, spec, snap)
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
