package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/sys"
)

// bases are the numbers under which the process has memory of guests open.
func bases(t *testing.T, pid int) (out []int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if to, _ := os.Readlink(filepath.Join(dir, e.Name())); strings.HasPrefix(to, "/memfd:guest-memory") {
			n, err := strconv.Atoi(e.Name())
			must(t, err)
			out = append(out, n)
		}
	}
	return out
}

// baseBytes is how much memory the base of a VMM takes.
func baseBytes(t *testing.T, pid int) int64 {
	t.Helper()
	n, err := sys.AllocatedBytes(fmt.Sprintf("/proc/%d/fd/%d", pid, bases(t, pid)[0]))
	must(t, err)
	return n
}

// bytesRead are those that this process has read, from wherever.
func bytesRead(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	must(t, err)
	_, err = fmt.Sscanf(string(b), "rchar: %d", &n)
	must(t, err)
	return n
}

// A sleep after a wake reads what the guest has changed since, and nothing else, also where
// another agent woke it.
func TestSleepReadsWhatChanged(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00018000")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	first := fill(t, v, "/tmp/a", 16)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "awake", v, "/tmp/a", first)
	must(t, v.Close())
	d = h.driver(t)
	v = h.held(t, d, spec)
	must(t, v.Pause(t.Context()))
	before := bytesRead(t)
	must(t, v.Snapshot(t.Context(), snap))
	if n := bytesRead(t) - before; n > 60<<20 {
		t.Errorf("a sleep of a guest that has more than 100 MiB, and changed little, read %d MiB", n>>20)
	}
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	v = wake(t, d, spec, snap)
	has(t, "at last", v, "/tmp/a", first)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// What a guest changes after a wake is not in memory twice, but for a bounded part.
func TestChangedMemoryIsGivenBack(t *testing.T) {
	h := newHost(t)
	h.hostd = true
	d, spec := h.driver(t), h.spec(t, "i-00018001")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	kept := fill(t, v, "/tmp/a", 4)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	_, err := v.Stats(t.Context())
	must(t, err)
	before := baseBytes(t, v.PID())
	changed := fill(t, v, "/tmp/b", 48)
	twice := baseBytes(t, v.PID())
	_, err = v.Stats(t.Context())
	must(t, err)
	if after := baseBytes(t, v.PID()); twice < before+16<<20 || after > before {
		t.Errorf("below the guest's memory were %d MiB, with 48 changed %d, and after a look %d; want no more than at first", before>>20, twice>>20, after>>20)
	}
	has(t, "awake", v, "/tmp/a", kept)
	has(t, "awake", v, "/tmp/b", changed)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "after a sleep", v, "/tmp/a", kept)
	has(t, "after a sleep", v, "/tmp/b", changed)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}

// A wake that fails leaves no process and no memory, and the guest wakes with its memory
// afterwards.
func TestFailedWakeLeavesNothing(t *testing.T) {
	s := sleeper(t, "i-00018002", "")
	fails := func(t *testing.T, ctx context.Context, is func(error) bool) {
		v, err := s.d.Restore(ctx, s.spec, s.snap)
		s.seam = nil
		if err == nil {
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
		}
		if err == nil || !is(err) {
			t.Errorf("%v (about the snapshot: %v)", err, driver.BadSnapshot(err))
		}
		if _, err := s.d.Recover(t.Context(), s.spec); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("recover: %v, want not found", err)
		}
		if left := bases(t, os.Getpid()); len(left) > 0 {
			t.Errorf("memory of the guest is open: %v", left)
		}
	}
	for _, c := range []struct{ calls, errno string }{
		{"memfd_create", "ENOMEM"}, {"memfd_create", "EMFILE"}, {"ftruncate", "ENOSPC"}, {"pwrite64", "ENOSPC"}, {"pwrite64", "ENOMEM"},
	} {
		t.Run(c.calls+" "+c.errno, func(t *testing.T) {
			s.seam = func(op string) error {
				if op == "restore.memory" {
					failCalls(t, os.Getpid(), c.calls, c.errno)
				}
				return nil
			}
			fails(t, t.Context(), func(err error) bool {
				errno, lacks := sys.Fault(err)
				return lacks && !driver.BadSnapshot(err) && unix.ErrnoName(errno) == c.errno
			})
		})
	}
	for _, op := range seams["Restore"] {
		t.Run("called off at "+op, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.seam = func(at string) error {
				if at == op {
					cancel()
				}
				return nil
			}
			fails(t, ctx, func(err error) bool { return !driver.BadSnapshot(err) && errors.Is(err, context.Canceled) })
		})
	}
	segments, err := filepath.Glob(filepath.Join(s.snap.Segments, "seg-*"))
	must(t, err)
	content, err := os.ReadFile(segments[0])
	must(t, err)
	for _, at := range []int{len(content) / 3, len(content) - 20} {
		t.Run(fmt.Sprintf("damage at %d", at), func(t *testing.T) {
			bad := slices.Clone(content)
			bad[at] ^= 4
			must(t, os.WriteFile(segments[0], bad, 0o600))
			fails(t, t.Context(), driver.BadSnapshot)
			must(t, os.WriteFile(segments[0], content, 0o600))
		})
	}
	// A page that the VMM writes before the snapshot's is there is no other than that in the end.
	s.seam = func(op string) error {
		if op == "restore.load" {
			spoil(t, s.pid(), int64(s.spec.MemMiB)<<20)
		}
		return nil
	}
	s.wakes()
}

// spoil writes to most of the guest's memory in the VMM.
func spoil(t *testing.T, pid int, size int64) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	must(t, err)
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		if at, _, ok := strings.Cut(line, "-"); ok && strings.Contains(line, "/memfd:guest-memory") {
			base, err := strconv.ParseInt(at, 16, 64)
			must(t, err)
			_, err = mem.WriteAt(make([]byte, size-16<<20), base+8<<20)
			must(t, err)
			return
		}
	}
	t.Fatal("the VMM does not map its guest's memory")
}
