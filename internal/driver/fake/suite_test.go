package fake_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// calls says which call of the contract passes the operation.
func calls() map[fake.Op]string {
	return map[fake.Op]string{
		fake.OpStart: "Start", fake.OpStartBoot: "Start", fake.OpRestore: "Restore", fake.OpRestoreLoad: "Restore",
		fake.OpPause: "Pause", fake.OpResume: "Resume", fake.OpSnapshot: "Snapshot", fake.OpSnapshotMemory: "Snapshot",
		fake.OpSnapshotState: "Snapshot", fake.OpKill: "Kill", fake.OpDestroy: "Destroy", fake.OpDestroyFiles: "Destroy",
		fake.OpRecover: "Recover",
	}
}

// harness makes the suite's harness; again says which host a restarted agent finds.
func harness(t *testing.T, again func(*fake.Host) *fake.Host) drivertest.Harness {
	root := testenv.Dir(t)
	first := fake.NewHost()
	var host atomic.Pointer[fake.Host]
	host.Store(first)
	type fault struct {
		op  fake.Op
		err error
	}
	var failing atomic.Pointer[fault]
	opt := fake.Options{Fail: func(op fake.Op, _ string) error {
		if f := failing.Load(); f != nil && f.op == op {
			return f.err
		}
		return nil
	}}
	t.Cleanup(first.Close)
	h := drivertest.Harness{
		Driver:   fake.New(first, opt),
		Root:     filepath.Join(root, "run"),
		Spec:     func(t testing.TB, id string) driver.Spec { return newSpec(t, root, id) },
		Patience: 10 * time.Second,
		Ready:    makeReady,
		KillOutside: func(t testing.TB, _ driver.VMM, spec driver.Spec) {
			if !host.Load().Crash(spec.ID) {
				t.Fatal("there is no VMM to kill")
			}
		},
		Left: func(spec driver.Spec) (left []string) {
			for _, v := range host.Load().VMMs() {
				if v.ID == spec.ID {
					left = append(left, "VMM "+string(v.State))
				}
			}
			return left
		},
		Ask: func(t testing.TB, _ driver.VMM, spec driver.Spec) {
			req := guestproto.HostRequest{WakeInstance: &guestproto.InstanceName{TenantID: "acme"}}
			if _, err := host.Load().Ask(t.Context(), spec.ID, req); err == nil {
				t.Error("a host that refuses was asked without an error")
			}
		},
	}
	h.Again = func() driver.Driver {
		next := again(host.Load())
		host.Store(next)
		t.Cleanup(next.Close)
		return fake.New(next, opt)
	}
	for op, call := range calls() {
		h.Faults = append(h.Faults, drivertest.Fault{Call: call, Name: string(op), Arm: func(err error) func() {
			failing.Store(&fault{op, err})
			return func() { failing.Store(nil) }
		}})
	}
	return h
}

// makeReady makes a snapshot ready, as the agent does.
func makeReady(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (*driver.Ready, error) {
	return atrest.MakeReady(ctx, spec.Dir, snap, spec.MemMiB, atrest.All)
}

// newSpec makes a new instance's files and folders below root.
func newSpec(t testing.TB, root, id string) driver.Spec {
	t.Helper()
	s := driver.Spec{ID: id, Dir: filepath.Join(root, "inst", id), RunDir: filepath.Join(root, "run", id),
		VCPUs: 1, MemMiB: 256, Kernel: filepath.Join(root, "kernel")}
	s.Memory, s.Console = filepath.Join(s.Dir, "memory"), filepath.Join(s.Dir, "console.log")
	for _, d := range []string{s.Dir, s.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.Kernel, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestDriver(t *testing.T) {
	t.Run("SameHost", func(t *testing.T) {
		drivertest.Run(t, func(t *testing.T) drivertest.Harness {
			return harness(t, func(h *fake.Host) *fake.Host { return h })
		})
	})
	// Another process: the VMMs are known by their records alone.
	t.Run("OtherProcess", func(t *testing.T) {
		drivertest.Run(t, func(t *testing.T) drivertest.Harness {
			return harness(t, func(*fake.Host) *fake.Host { return fake.NewHost() })
		})
	})
}

func TestViolations(t *testing.T) {
	for name, c := range map[string]struct {
		violate func(*testing.T, driver.Driver, driver.Spec, driver.VMM)
		want    string
	}{
		"StartTwice": {func(t *testing.T, d driver.Driver, s driver.Spec, _ driver.VMM) {
			_, _ = d.Start(t.Context(), s)
		}, "start of i-00000001, which has a VMM already"},
		"SnapshotOfRunning": {func(t *testing.T, _ driver.Driver, s driver.Spec, v driver.VMM) {
			_ = v.Snapshot(t.Context(), drivertest.Snapshot(t, s))
		}, "snapshot of i-00000001, which is not paused"},
		"ResumeOfKilled": {func(t *testing.T, _ driver.Driver, _ driver.Spec, v driver.VMM) {
			_ = errors.Join(v.Kill(t.Context()), v.Resume(t.Context()))
		}, "resume of i-00000001, which was killed before"},
		"RestoreOfConsumed": {func(t *testing.T, d driver.Driver, s driver.Spec, v driver.VMM) {
			snap := drivertest.Snapshot(t, s)
			if err := errors.Join(v.Pause(t.Context()), v.Snapshot(t.Context(), snap), v.Resume(t.Context()), v.Kill(t.Context())); err != nil {
				t.Fatal(err)
			}
			_, _ = d.Restore(t.Context(), s, snap)
		}, "restore of i-00000001: memory and device state are not of one snapshot (consumed before?)"},
	} {
		t.Run(name, func(t *testing.T) {
			host := fake.NewHost()
			defer host.Close()
			d := fake.New(host, fake.Options{})
			s := newSpec(t, testenv.Dir(t), "i-00000001")
			v, err := d.Start(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if got := host.Violations(); len(got) > 0 {
				t.Fatalf("violations before: %v", got)
			}
			c.violate(t, d, s, v)
			if got := strings.Join(host.Violations(), "\n"); got != c.want {
				t.Errorf("violations %q, want %q", got, c.want)
			}
		})
	}
}
