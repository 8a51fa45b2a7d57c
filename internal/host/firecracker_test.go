package host_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/driver/firecracker"
	"mvm/internal/owner"
	"mvm/internal/testenv"
	"mvm/test/fakevmm"
)

// fcHost is a host whose agent runs the stand-in for Firecracker, with its own network and
// with devices that every user may open.
type fcHost struct {
	t      *testing.T
	dir    string
	bin    string
	o      string // options of the agent
	socket string
	cmd    *exec.Cmd
	client *api.Client
}

func newFCHost(t *testing.T) *fcHost {
	testenv.NeedRoot(t)
	h := &fcHost{t: t, dir: testenv.Dir(t), bin: fakevmm.Install(t)}
	testenv.NothingLeft(t, h.dir)
	o := options(h.dir)
	o.Driver, o.UIDBase, o.LogLevel = firecracker.Name, owner.AnyUsers(), "warn"
	must(t, os.WriteFile(o.KeyFile, bytes.Repeat([]byte("k"), 32), 0o600))
	text, err := json.Marshal(o)
	must(t, err)
	h.o, h.socket = string(text), o.Socket
	tun := filepath.Join(h.bin, fakevmm.TUNFile)
	must(t, unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(tun, 0o666))
	h.cmd = exec.Command("sleep", "infinity") // holds the namespaces, as VMMs outlive their agent
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	must(t, h.cmd.Start())
	t.Cleanup(func() { _, _ = h.cmd.Process.Kill(), h.cmd.Wait() })
	h.inside("sh", "-c", "mount --make-rprivate / && touch /dev/kvm; mount --bind /dev/null /dev/kvm && mount --bind "+tun+" /dev/net/tun && ip link set lo up")
	return h
}

// in is a command in the host's namespaces.
func (h *fcHost) in(argv ...string) *exec.Cmd {
	ns := fmt.Sprintf("/proc/%d/ns/", h.cmd.Process.Pid)
	return exec.Command("nsenter", append([]string{"--net=" + ns + "net", "--mount=" + ns + "mnt"}, argv...)...)
}

func (h *fcHost) inside(argv ...string) string {
	h.t.Helper()
	out, err := h.in(argv...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

// agent starts an agent; stop ends it, and the VMMs run on.
func (h *fcHost) agent() (stop func()) {
	h.t.Helper()
	cmd := h.in("/proc/self/exe")
	exe, err := os.Executable()
	must(h.t, err)
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(os.Environ(), envAgent+"="+h.o, "PATH="+h.bin+":"+os.Getenv("PATH"))
	log, err := os.Create(h.logFile())
	must(h.t, err)
	cmd.Stderr = log
	must(h.t, errors.Join(cmd.Start(), log.Close()))
	h.client = api.Dial(h.socket)
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		h.client.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("the agent ended with %v\n%s", err, h.log())
		}
	}
	h.t.Cleanup(stop)
	testenv.Eventually(h.t, time.Minute, func() error { _, err := h.client.Version(h.t.Context()); return err })
	return stop
}

func (h *fcHost) logFile() string { return filepath.Join(h.dir, "agent.log") }

// log is what the agent has written so far.
func (h *fcHost) log() string {
	h.t.Helper()
	b, err := os.ReadFile(h.logFile())
	must(h.t, err)
	return string(b)
}

// image is a folder with an image that the stand-in boots.
func (h *fcHost) image() string {
	dir := filepath.Join(h.dir, "image")
	must(h.t, os.Mkdir(dir, 0o755))
	must(h.t, os.WriteFile(filepath.Join(dir, "vmlinux"), []byte("\x7fELF kernel"), 0o644))
	must(h.t, os.WriteFile(filepath.Join(dir, "initrd"), []byte("initrd"), 0o644))
	must(h.t, os.WriteFile(filepath.Join(dir, "image.json"), []byte(`{"version":1,"name":"test","arch":"amd64","cmdline":"","kernel":{"name":"vmlinux"},"initrd":{"name":"initrd"}}`), 0o644))
	return "dir:" + dir
}

// An agent with driver = "firecracker" takes an instance through its life: with a network,
// a data disk, a restart of the agent, sleep, wake and its end, and says what the driver is.
func TestFirecracker(t *testing.T) {
	h := newFCHost(t)
	stop := h.agent()
	if !strings.Contains(h.log(), firecracker.NeverRun) {
		t.Errorf("the agent does not say that the driver was never run with KVM:\n%s", h.log())
	}
	ctx := t.Context()
	info, err := h.client.NodeInfo(ctx)
	must(t, err)
	if info.Driver != firecracker.Name || !strings.Contains(info.Why, firecracker.NeverRun) {
		t.Errorf("node info says %+v", info)
	}
	_, err = h.client.CreateTenant(ctx, mvm.TenantSpec{ID: "acme"})
	must(t, err)
	_, err = h.client.CreatePool(ctx, "acme", mvm.PoolSpec{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Flake: h.image(),
		Resources: mvm.Resources{VCPUs: 1, MemMiB: 128, DataDiskMiB: 16}})
	must(t, err)
	_, err = h.client.BuildPool(ctx, "acme", "workers", func(mvm.Progress) {})
	must(t, err)
	i, err := h.client.CreateInstance(ctx, "acme", "workers", "bob")
	must(t, err)
	addr := mvm.Address{Tenant: "acme", Pool: "workers", Instance: i.ID}
	do := func(op mvm.OpKind, want mvm.State) {
		t.Helper()
		got, err := h.client.Operate(ctx, addr, mvm.OpRequest{Op: op, Force: true}, func(mvm.Progress) {})
		if err != nil || got.State != want {
			t.Fatalf("%s: %v, state %s, want %s\n%s", op, err, got.State, want, h.log())
		}
	}
	taps := func() bool { return strings.Contains(h.inside("ip", "-o", "link"), " tn") }
	do(mvm.OpStart, mvm.StateRunning)
	if !taps() {
		t.Error("an instance that runs has no TAP")
	}
	stop()
	stop = h.agent()
	do(mvm.OpSleep, mvm.StateSleeping)
	if taps() {
		t.Error("an instance that sleeps has a TAP")
	}
	do(mvm.OpWake, mvm.StateRunning)
	got, err := h.client.Instance(ctx, addr)
	must(t, err)
	if got.Snapshot != nil && !got.Snapshot.Consumed {
		t.Errorf("after the wake its snapshot is %+v", got.Snapshot)
	}
	do(mvm.OpStop, mvm.StateStopped)
	must(t, h.client.DestroyTenant(ctx, "acme", func(mvm.Progress) {}))
	if taps() {
		t.Error("a TAP outlives its tenant")
	}
	stop()
	h.checkRequests()
}

// checkRequests looks at what the stand-ins were asked: all of it fits the description, and
// a wake was a restore.
func (h *fcHost) checkRequests() {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.bin, fakevmm.RequestsFile))
	must(h.t, err)
	var routes []string
	for line := range bytes.Lines(b) {
		var r fakevmm.Request
		must(h.t, json.Unmarshal(line, &r))
		if r.Invalid != "" {
			h.t.Errorf("%s %s: %s", r.Route, r.Body, r.Invalid)
		}
		if r.VM != "probe" {
			routes = append(routes, r.Route)
		}
	}
	for _, want := range []string{"PUT /drives/{drive_id}", "PUT /network-interfaces/{iface_id}", "PUT /snapshot/create", "PUT /snapshot/load"} {
		if !slices.Contains(routes, want) {
			h.t.Errorf("no VMM of an instance was asked %s, only %v", want, routes)
		}
	}
}
