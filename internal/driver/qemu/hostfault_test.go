package qemu_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/driver/qemu/spawn"
)

// asleep is an instance that sleeps, with its memory on a file system of its own.
type asleep struct {
	*host
	t     *testing.T
	d     *qemu.Driver
	spec  driver.Spec
	snap  driver.Snapshot
	small string
	boot  string
}

// sleeper boots an instance in the VMM binary, and puts it to sleep.
func sleeper(t *testing.T, id, binary string) *asleep {
	t.Helper()
	h := newHost(t)
	s := &asleep{host: h, t: t, spec: h.spec(t, id), small: filepath.Join(h.dir, "small")}
	must(t, os.Mkdir(s.small, 0o700))
	must(t, unix.Mount("tmpfs", s.small, "tmpfs", 0, "size=300m"))
	t.Cleanup(func() { must(t, unix.Unmount(s.small, 0)) })
	s.spec.Memory, s.snap = filepath.Join(s.small, "memory"), drivertest.SnapshotIn(t, s.small, s.spec)
	if s.d = h.driver(t); binary != "" {
		var err error
		s.d, err = qemu.New(qemu.Options{Binary: binary, StateDir: filepath.Join(h.dir, "q"), Log: slog.New(slog.DiscardHandler)})
		must(t, err)
	}
	v := start(t, s.d, s.spec)
	ping(t, v)
	s.boot = run(t, v, "cat", "/proc/sys/kernel/random/boot_id")
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), s.snap))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	return s
}

// pid is the VMM's, from its record.
func (s *asleep) pid() int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.spec.RunDir, "vmm.json"))
	must(s.t, err)
	var rec struct{ PID int }
	must(s.t, json.Unmarshal(b, &rec))
	return rec.PID
}

// fails restores on a host that lacks something: that says nothing about the snapshot.
func (s *asleep) fails(what string, is func(error) bool) {
	s.t.Helper()
	v, err := s.d.Restore(s.t.Context(), s.spec, s.snap)
	if err == nil {
		must(s.t, v.Kill(s.t.Context()))
		must(s.t, v.Close())
		s.t.Errorf("%s: restored", what)
		return
	}
	if driver.BadSnapshot(err) || !is(err) {
		s.t.Errorf("%s: %v (about the snapshot: %v), want the host's fault", what, err, driver.BadSnapshot(err))
	}
}

// wakes restores the snapshot: the guest is the one that slept. And a VMM that can't be
// taken up for want of file descriptors, at whatever step, is not taken for gone.
func (s *asleep) wakes() {
	s.t.Helper()
	v, err := s.d.Restore(s.t.Context(), s.spec, s.snap)
	must(s.t, err)
	must(s.t, v.Resume(s.t.Context()))
	must(s.t, v.Close())
	recover := func() (driver.VMM, error) { return s.d.Recover(s.t.Context(), s.spec) }
	for none := 0; ; none++ {
		if v, err = withFiles(s.t, none, recover); err == nil {
			break
		}
		if mvm.IsKind(err, mvm.KindNotFound) || !errors.Is(err, unix.EMFILE) || none > 40 {
			s.t.Fatalf("recover with %d files left: %v, want that there are too many open", none, err)
		}
	}
	if got := run(s.t, v, "cat", "/proc/sys/kernel/random/boot_id"); got != s.boot {
		s.t.Errorf("boot id %q, want %q: the memory is lost", got, s.boot)
	}
	must(s.t, v.Kill(s.t.Context()))
	must(s.t, v.Close())
}

// What a host lacks at a restore is told as that, whatever it is and wherever it is
// noticed, and the snapshot is whole afterwards.
func TestRestoreOnAHostThatLacksSomething(t *testing.T) {
	s := sleeper(t, "i-00014000", "")

	// The disk is full. Only memory of an older version needs some of it.
	filler, sealed := filepath.Join(s.small, "filler"), s.snap
	s.snap = asOlder(t, s.spec, sealed)
	fillUp(t, filler)
	s.fails("full disk", func(err error) bool {
		return errors.Is(err, unix.ENOSPC) && mvm.IsKind(err, mvm.KindUnavailable) && strings.Contains(err.Error(), "free")
	})
	s.snap = sealed
	v, err := s.d.Restore(t.Context(), s.spec, s.snap)
	must(t, err)
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	must(t, errors.Join(os.Remove(filler), os.Remove(s.spec.Memory)))

	// There are no file descriptors left, from the first one that is needed to the last.
	none := 0
	for spare := range 40 {
		v, err := withFiles(t, spare, func() (driver.VMM, error) { return s.d.Restore(t.Context(), s.spec, s.snap) })
		if err == nil {
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
			break
		}
		if none++; driver.BadSnapshot(err) || !errors.Is(err, unix.EMFILE) {
			t.Errorf("%d files left: %v (about the snapshot: %v), want that there are too many open", spare, err, driver.BadSnapshot(err))
		}
	}
	if none < 5 {
		t.Errorf("%d restores lacked files: the limit does not bite", none)
	}

	// Somebody, such as the kernel for want of memory, kills the VMM while it loads.
	s.seam = func(op string) error {
		if op == "restore.load" {
			killOutside(t, s.pid())
		}
		return nil
	}
	s.fails("killed while it loads", func(err error) bool { return mvm.IsKind(err, mvm.KindUnavailable) })
	s.seam = nil
	s.wakes()
}

// withFiles calls fn with so many file descriptors left for this process.
func withFiles(t *testing.T, spare int, fn func() (driver.VMM, error)) (driver.VMM, error) {
	t.Helper()
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	// Nearly all numbers below are taken.
	must(t, unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open) + spare), Max: was.Max}, nil))
	defer func() { must(t, unix.Prlimit(0, unix.RLIMIT_NOFILE, &was, nil)) }()
	return fn()
}

func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	if must(t, f.Close()); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill: %v", err)
	}
}

// A VMM binary that is gone for a while costs no memory.
func TestRestoreWithoutBinary(t *testing.T) {
	path, err := spawn.Binary("")
	must(t, err)
	prefix, err := os.MkdirTemp("/tmp", "mvm") // the VMM's user gets there
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(prefix)) })
	must(t, os.Chmod(prefix, 0o755))
	must(t, os.Mkdir(filepath.Join(prefix, "bin"), 0o755))
	for _, dir := range []string{"share", "lib"} { // QEMU looks for firmware and modules beside its binary's folder
		must(t, os.Symlink(filepath.Join(filepath.Dir(filepath.Dir(path)), dir), filepath.Join(prefix, dir)))
	}
	binary := filepath.Join(prefix, "bin", filepath.Base(path))
	copyFile(t, path, binary)
	s := sleeper(t, "i-00014001", binary)
	must(t, os.Rename(binary, binary+".away"))
	s.fails("no binary", func(err error) bool {
		return mvm.IsKind(err, mvm.KindUnavailable) && strings.Contains(err.Error(), "apt-get install")
	})
	must(t, os.Rename(binary+".away", binary))
	s.wakes()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	must(t, err)
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(dst, src)
	must(t, errors.Join(err, dst.Close()))
}
