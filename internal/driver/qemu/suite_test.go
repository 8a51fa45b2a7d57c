package qemu_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/image"
	"mvm/internal/testenv"
)

// suiteUID is the user that the suite's VMMs run as.
const suiteUID = 64001

// suiteFaults are the driver's seams by the call of the contract that passes them.
var suiteFaults = map[string][]string{
	"Start":    {"start.memory", "start.exec", "start.record", "start.qmp", "start.cont"},
	"Restore":  {"restore.memory", "restore.load", "start.exec", "start.record", "start.qmp"},
	"Pause":    {"pause.stop"},
	"Resume":   {"resume.cont"},
	"Snapshot": {"snapshot.create", "snapshot.migrate", "snapshot.sync", "snapshot.commit"},
	"Kill":     {"kill.signal"},
}

// seam fails the operation that is armed.
type seam struct {
	mu    sync.Mutex
	armed string
}

func (s *seam) fail(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op == s.armed {
		return mvm.Errorf(mvm.KindInternal, "%s was made to fail", op)
	}
	return nil
}

func (s *seam) arm(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = op
}

func suiteSpec(t testing.TB, root string, img image.Image, id string) driver.Spec {
	t.Helper()
	s := driver.Spec{ID: id, Dir: filepath.Join(root, "inst", id), RunDir: filepath.Join(root, "run", id),
		UID: suiteUID, GID: suiteUID, VCPUs: 1, MemMiB: 256,
		Kernel: img.Path(img.Kernel), Initrd: img.Path(img.Initrd), Cmdline: img.Cmdline}
	s.Memory, s.Console = filepath.Join(s.Dir, "memory"), filepath.Join(s.Dir, "console.log")
	for _, d := range []string{s.Dir, s.RunDir} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, suiteUID, suiteUID); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if b, err := os.ReadFile(s.Console); err == nil && t.Failed() {
			t.Logf("console of %s: %.4000s", id, b)
		}
	})
	return s
}

func suiteHarness(t *testing.T, img image.Image) drivertest.Harness {
	root := testenv.Dir(t)
	testenv.NothingLeft(t, root)
	fail := &seam{}
	open := func() driver.Driver {
		d, err := qemu.New(qemu.Options{
			StateDir:    filepath.Join(testenv.Cache(t), "qemu"),
			ProbeKernel: func() string { return img.Path(img.Kernel) },
			Seam:        fail.fail,
			Log:         slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	h := drivertest.Harness{
		Driver:   open(),
		Again:    open,
		Root:     filepath.Join(root, "run"),
		Spec:     func(t testing.TB, id string) driver.Spec { return suiteSpec(t, root, img, id) },
		Patience: 2 * time.Minute,
		KillOutside: func(t testing.TB, v driver.VMM, _ driver.Spec) {
			killAndWait(t, v.PID())
		},
		VSock: true,
	}
	for call, ops := range suiteFaults {
		for _, op := range ops {
			h.Faults = append(h.Faults, drivertest.Fault{Call: call, Name: strings.ReplaceAll(op, ".", "-"), Arm: func() func() {
				fail.arm(op)
				return func() { fail.arm("") }
			}})
		}
	}
	return h
}

// killAndWait kills the process and waits until it is dead, reaped or not.
func killAndWait(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		if _, state, ok := strings.Cut(string(b), ") "); ok && state[0] == 'Z' {
			return nil
		}
		return errors.New("the process still lives")
	})
}

// TestDriver takes the driver through the suite of all drivers, with real guests.
func TestDriver(t *testing.T) {
	testenv.NeedRoot(t)
	img := testenv.Image(t, "builtin:minimal")
	drivertest.Run(t, func(t *testing.T) drivertest.Harness { return suiteHarness(t, img) })
}
