package qemu_test

import (
	"context"
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

	"go.uber.org/goleak"

	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/image"
	"mvm/internal/jail"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) {
	jail.RunChild()
	if at := os.Getenv("MVM_TEST_DIE_AT"); at != "" {
		dieAt(at)
	}
	goleak.VerifyTestMain(m)
}

// patience is for the slowest machine: guests boot under TCG.
const patience = 3 * time.Minute

// uid is the user that the VMMs of the tests run as.
const uid = 64_321

// host is a folder with drivers on it, one after the other, and their instances.
type host struct {
	dir   string
	seam  func(op string) error
	vmms  spawn.Host // nil: this process
	hostd bool       // a server has the rights
	jail  jail.Jail
}

func newHost(t testing.TB) *host {
	t.Helper()
	testenv.NeedRoot(t)
	dir := testenv.Dir(t)
	testenv.NothingLeft(t, dir)
	return &host{dir: dir, jail: walls()}
}

func (h *host) driver(t testing.TB) *qemu.Driver {
	t.Helper()
	img := minimal(t)
	if h.hostd && h.vmms == nil {
		bounds := hostdtest.Bounds(h.root(), stateDir(t))
		vmms, err := spawn.New(spawn.Options{Bounds: bounds, Jail: h.jail})
		must(t, err)
		client, _ := hostdtest.Serve(t, hostd.Options{Bounds: bounds, VMMs: hostdtest.QEMU(vmms)})
		h.vmms = spawn.Over(client.VMMs(spawn.Kind))
	}
	if h.vmms == nil {
		vmms, err := spawn.New(spawn.Options{Jail: h.jail})
		if err != nil {
			t.Fatal(err)
		}
		h.vmms = vmms
	}
	d, err := qemu.New(qemu.Options{StateDir: stateDir(t), Host: h.vmms, Log: slog.New(slog.DiscardHandler),
		ProbeKernel: func() string { return img.Path(img.Kernel) },
		Seam: func(op string) error {
			if h.seam != nil {
				return h.seam(op)
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stateDir is shared by all tests: what is found out about the host is the same.
func stateDir(t testing.TB) string { return filepath.Join(testenv.Cache(t), "qemu") }

func (h *host) root() string { return filepath.Join(h.dir, "run") }

// spec is an instance of the built-in minimal image.
func (h *host) spec(t testing.TB, id string) driver.Spec {
	t.Helper()
	img := minimal(t)
	s := driver.Spec{ID: id, Dir: filepath.Join(h.dir, "instances", id), RunDir: filepath.Join(h.root(), id),
		UID: uid, GID: uid, Cgroup: "mvm-" + id, VCPUs: 1, MemMiB: 256, Cmdline: img.Cmdline,
		Kernel: img.Path(img.Kernel), Initrd: img.Path(img.Initrd)}
	s.Memory, s.Console = filepath.Join(s.Dir, "memory"), filepath.Join(s.Dir, "console")
	for _, dir := range []string{s.Dir, s.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
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

// minimal returns the image, looked up once: that hashes all that it is made of.
func minimal(t testing.TB) image.Image {
	t.Helper()
	imageMu.Lock()
	defer imageMu.Unlock()
	if theImage.Dir == "" {
		theImage = testenv.Image(t, "builtin:minimal")
	}
	return theImage
}

var (
	imageMu  sync.Mutex
	theImage image.Image
)

func TestSuite(t *testing.T) { suite(t, false) }

// The driver keeps its promises when what needs root is done by a server.
func TestSuiteThroughHostd(t *testing.T) { suite(t, true) }

func suite(t *testing.T, hostd bool) {
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		h := newHost(t)
		h.hostd = hostd
		return drivertest.Harness{
			Driver:   h.driver(t),
			Again:    func() driver.Driver { return h.driver(t) },
			Root:     h.root(),
			Spec:     h.spec,
			Patience: patience,
			KillOutside: func(t testing.TB, v driver.VMM, _ driver.Spec) {
				killOutside(t, v.PID())
			},
			VSock:  true,
			Ready:  makeReady,
			Faults: h.faults(),
		}
	})
}

// makeReady makes a snapshot ready, as the agent does.
func makeReady(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (*driver.Ready, error) {
	return atrest.MakeReady(ctx, spec.Dir, snap, spec.MemMiB, atrest.All)
}

// killOutside kills the process and waits until it is dead, reaped or not.
func killOutside(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if _, state, ok := strings.Cut(string(b), ") "); err == nil && ok && state[0] != 'Z' {
			return errors.New("the process still lives")
		}
		return nil
	})
}
