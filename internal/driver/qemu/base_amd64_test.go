package qemu_test

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"mvm/internal/driver/drivertest"
	"mvm/internal/testenv/inject"
)

// A VMM that was taken over can neither resize the memory below its guest's nor seal it. What it
// writes there changes nothing of the snapshot before.
func TestHostileBase(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00018010")
	snap := drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	kept := fill(t, v, "/tmp/a", 8)
	sleep(t, v, snap)
	v = wake(t, d, spec, snap)
	has(t, "awake", v, "/tmp/a", kept)
	must(t, v.Pause(t.Context()))
	numbers := bases(t, v.PID())
	if len(numbers) == 0 {
		t.Fatal("the VMM has no base")
	}
	fd := numbers[0]
	size := int64(spec.MemMiB) << 20
	var before unix.Stat_t
	path := fmt.Sprintf("/proc/%d/fd/%d", v.PID(), fd)
	must(t, unix.Stat(path, &before))
	for _, c := range []hostile{
		one("make it longer", unix.SYS_FTRUNCATE, fd, int(size+4096)),
		one("make it shorter", unix.SYS_FTRUNCATE, fd, int(size-4096)),
		one("write behind it", unix.SYS_PWRITE64, fd, make([]byte, 4096), 4096, int(size)),
		one("allocate behind it", unix.SYS_FALLOCATE, fd, 0, int(size), 4096),
		one("seal it", unix.SYS_FCNTL, fd, unix.F_ADD_SEALS, unix.F_SEAL_WRITE),
	} {
		err := inject.Into(v.PID(), v.PID(), c.do)
		t.Logf("%-24s %s", c.name, outcome(err))
		if err == nil {
			t.Errorf("%s: it could", c.name)
		}
	}
	var after unix.Stat_t
	must(t, unix.Stat(path, &after))
	if after.Size != before.Size || after.Mode != before.Mode || after.Uid != before.Uid {
		t.Errorf("it has size %d, mode %o and user %d, and had %d, %o and %d", after.Size, after.Mode, after.Uid, before.Size, before.Mode, before.Uid)
	}
	evil := bytes.Repeat([]byte("evil"), 1<<14)
	must(t, inject.Into(v.PID(), v.PID(), func(th *inject.Thread) error {
		for at := int64(0); at < size; at += 256 << 10 {
			if _, err := th.Call(unix.SYS_PWRITE64, fd, evil, len(evil), int(at)); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	v = wake(t, d, spec, snap)
	has(t, "after it was written to", v, "/tmp/a", kept)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
}
