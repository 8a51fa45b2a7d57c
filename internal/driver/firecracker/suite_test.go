package firecracker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/firecracker"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
	"mvm/test/fakevmm"
)

// This test program is Firecracker too, when it runs under that name.
func TestMain(m *testing.M) {
	if fakevmm.Is() {
		os.Exit(fakevmm.Main(os.Args, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

const patience = 30 * time.Second

// uid is the user that the VMMs of the tests run as.
const uid = 64_323

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a folder with drivers on it, one after the other, and their instances.
type host struct {
	dir, bin string
	seam     func(op string) error
	untested bool // the self-test has not passed yet
}

func newHost(t testing.TB) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{dir: testenv.Dir(t)}
	testenv.NothingLeft(t, h.dir)
	h.bin = fakevmm.Install(t)
	h.knobs(t, fakevmm.Knobs{})
	t.Cleanup(func() { h.checkRequests(t) })
	return h
}

func (h *host) knobs(t testing.TB, k fakevmm.Knobs) {
	t.Helper()
	b, err := json.Marshal(k)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(h.bin, fakevmm.KnobsFile), b, 0o644))
}

// requests are all that the stand-ins were asked.
func (h *host) requests(t testing.TB) (out []fakevmm.Request) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.bin, fakevmm.RequestsFile))
	must(t, err)
	for line := range bytes.Lines(b) {
		var r fakevmm.Request
		must(t, json.Unmarshal(line, &r))
		out = append(out, r)
	}
	return out
}

// checkRequests fails the test where a request did not fit Firecracker's description.
func (h *host) checkRequests(t testing.TB) {
	t.Helper()
	for _, r := range h.requests(t) {
		if r.Invalid != "" {
			t.Errorf("%s %s: %s", r.Route, r.Body, r.Invalid)
		}
	}
}

func (h *host) root() string { return filepath.Join(h.dir, "run") }

func (h *host) stateDir() string { return filepath.Join(h.dir, "firecracker") }

func (h *host) driver(t testing.TB) *firecracker.Driver {
	t.Helper()
	d, err := firecracker.New(firecracker.Options{Binary: filepath.Join(h.bin, "firecracker"), StateDir: h.stateDir(), KVM: os.DevNull, TUN: filepath.Join(h.bin, fakevmm.TUNFile),
		Log: slog.New(slog.DiscardHandler), ProbeImage: func() (firecracker.ProbeImage, bool) {
			return firecracker.ProbeImage{Kernel: h.kernel(t), Initrd: h.kernel(t)}, true
		},
		Seam: func(op string) error {
			if h.seam != nil {
				return h.seam(op)
			}
			return nil
		}})
	must(t, err)
	if !h.untested {
		info, err := d.Info(t.Context())
		must(t, err)
		verdict := fmt.Sprintf(`{"version":1,"digest":%q}`, info.Digest)
		must(t, os.WriteFile(filepath.Join(h.stateDir(), "firecracker-host.json"), []byte(verdict), 0o600))
	}
	return d
}

// kernel is a file that begins as a vmlinux.
func (h *host) kernel(t testing.TB) string {
	t.Helper()
	path := filepath.Join(h.dir, "vmlinux")
	must(t, os.WriteFile(path, []byte("\x7fELF kernel"), 0o644))
	return path
}

// spec is an instance with files of its own. Its id is another driver's in no test: cgroups
// are named by ids.
func (h *host) spec(t testing.TB, id string) driver.Spec {
	t.Helper()
	id = "i-f" + strings.TrimPrefix(id, "i-d")
	s := driver.Spec{ID: id, Dir: filepath.Join(h.dir, "inst", id), RunDir: filepath.Join(h.root(), id),
		UID: uid, GID: uid, Cgroup: "mvm-" + id, VCPUs: 1, MemMiB: 128, Kernel: h.kernel(t)}
	s.Memory, s.Console = filepath.Join(s.Dir, "memory"), filepath.Join(s.Dir, "console")
	for _, dir := range []string{s.Dir, s.RunDir} {
		must(t, os.MkdirAll(dir, 0o700))
	}
	return s
}

// seams are the driver's named operations by the call that they are within.
var seams = map[string][]string{
	"Start":    {"start.exec", "start.record", "start.api", "start.configure", "start.boot"},
	"Restore":  {"restore.memory", "start.exec", "start.record", "start.api", "start.configure", "restore.load"},
	"Pause":    {"pause.vm"},
	"Resume":   {"resume.vm"},
	"Snapshot": {"snapshot.create", "snapshot.vmm", "snapshot.copy", "snapshot.commit"},
	"Kill":     {"kill.signal"},
	"Recover":  {"recover.find"},
}

func (h *host) faults() (out []drivertest.Fault) {
	for call, ops := range seams {
		for _, op := range ops {
			out = append(out, drivertest.Fault{Call: call, Name: op, Arm: func(err error) func() {
				h.seam = func(at string) error {
					if at == op {
						return fmt.Errorf("%s: %w", op, err)
					}
					return nil
				}
				return func() { h.seam = nil }
			}})
		}
	}
	return out
}

func TestSuite(t *testing.T) {
	var asked []string
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		h := newHost(t)
		t.Cleanup(func() {
			for _, r := range h.requests(t) {
				if !slices.Contains(asked, r.Route) {
					asked = append(asked, r.Route)
				}
			}
		})
		return drivertest.Harness{
			Driver:   h.driver(t),
			Again:    func() driver.Driver { return h.driver(t) },
			Root:     h.root(),
			Spec:     h.spec,
			Patience: patience,
			KillOutside: func(t testing.TB, v driver.VMM, _ driver.Spec) {
				must(t, syscall.Kill(v.PID(), syscall.SIGKILL))
			},
			Ask: func(t testing.TB, v driver.VMM, _ driver.Spec) {
				_, _ = callHost(t, v) // the suite sees what comes in
			},
			Scratch: []string{"vmm.memory"}, Plain: true,
			VSock:  true,
			Faults: h.faults(),
		}
	})
	for _, want := range []string{"GET /", "PUT /actions", "PUT /boot-source", "PUT /entropy", "PUT /logger", "PUT /machine-config", "PUT /metrics",
		"PUT /serial", "PUT /snapshot/create", "PUT /snapshot/load", "PUT /vsock", "PATCH /vm"} {
		if !slices.Contains(asked, want) {
			t.Errorf("the suite has not seen %s, only %v", want, asked)
		}
	}
}

// callHost has the guest ask its host, and says whether it got an answer.
func callHost(t testing.TB, v driver.VMM) (bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	must(t, err)
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, guestproto.Request{CallHost: true})
	must(t, err)
	if resp.CallHostAck == nil {
		t.Fatalf("answered %+v", resp)
	}
	if resp.CallHostAck.Detail != nil {
		return false, errors.New(*resp.CallHostAck.Detail)
	}
	return resp.CallHostAck.Success, nil
}

// run runs a command in the guest and returns its output.
func run(t testing.TB, v driver.VMM, stdin string, argv ...string) string {
	t.Helper()
	out, err := tryRun(t, v, stdin, argv...)
	if err != nil {
		t.Fatalf("run %v in the guest: %v", argv, err)
	}
	return out
}

func tryRun(t testing.TB, v driver.VMM, stdin string, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return "", err
	}
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if _, err := guestproto.Call(ctx, c, guestproto.Request{Exec: &guestproto.Exec{Argv: argv}}); err != nil {
		return "", err
	}
	for rest := []byte(stdin); len(rest) > 0; {
		n := min(len(rest), guestproto.MaxExecData)
		if err := guestproto.Send(c, guestproto.ExecFrame{Stdin: rest[:n]}); err != nil {
			return "", err
		}
		rest = rest[n:]
	}
	if err := guestproto.Send(c, guestproto.ExecFrame{CloseStdin: true}); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			return "", err
		}
		out.Write(f.Stdout)
		if f.Exit != nil && f.Exit.Code != 0 {
			return "", errors.New(f.Exit.Detail)
		}
		if f.Exit != nil {
			return out.String(), nil
		}
	}
}
