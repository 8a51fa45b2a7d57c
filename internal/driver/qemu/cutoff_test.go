package qemu_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/qemu"
	"mvm/internal/sys"
)

// cutOff is what a process is told that shall die in the middle of a call.
type cutOff struct {
	Call  string
	State string // StateDir of the driver
	Spec  driver.Spec
}

// dieAt is the main of such a process: it makes the call, and kills itself with
// SIGKILL when the driver gets to the operation.
func dieAt(op string) {
	var c cutOff
	if err := json.Unmarshal([]byte(os.Getenv("MVM_TEST_CALL")), &c); err != nil {
		panic(err)
	}
	d, err := qemu.New(qemu.Options{StateDir: c.State, Seam: func(at string) error {
		if at == op {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}})
	if err == nil {
		err = c.run(context.Background(), d)
	}
	fmt.Println("the call ended:", err)
	os.Exit(1)
}

func (c cutOff) run(ctx context.Context, d driver.Driver) error {
	snap := drivertest.SnapshotOf(c.Spec)
	var v driver.VMM
	var err error
	switch c.Call {
	case "Start":
		_, err = d.Start(ctx, c.Spec)
		return err
	case "Restore":
		_, err = d.Restore(ctx, c.Spec, snap)
		return err
	}
	if v, err = d.Recover(ctx, c.Spec); err != nil {
		return err
	}
	switch c.Call {
	case "Pause":
		return v.Pause(ctx)
	case "Resume":
		return v.Resume(ctx)
	case "Snapshot":
		return v.Snapshot(ctx, snap)
	}
	return v.Kill(ctx)
}

// die runs the call in a process that is killed at the operation.
func (h *host) die(t *testing.T, d *qemu.Driver, call, op string, spec driver.Spec) {
	t.Helper()
	if _, err := d.Info(t.Context()); err != nil { // so that the process need not find it out
		t.Fatal(err)
	}
	b, err := json.Marshal(cutOff{call, stateDir(t), spec})
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "MVM_TEST_DIE_AT="+op, "MVM_TEST_CALL="+string(b))
	out, err := cmd.CombinedOutput()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
		t.Fatalf("the process did not die at %s: %v %s", op, err, out)
	}
}

// An agent is killed at every named operation of Start and Restore: the next one
// finds nothing that runs, Destroy leaves nothing, and the snapshot is good.
func TestKilledWhileMaking(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00014000")
	t.Cleanup(func() { must(t, d.Destroy(context.Background(), spec)) })
	for _, op := range seams["Start"] {
		h.die(t, d, "Start", op, spec)
		if op == "start.qmp" { // Destroy must find it too
			must(t, d.Destroy(t.Context(), spec))
		}
		if _, err := d.Recover(t.Context(), spec); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("recover after a death at %s: %v, want not found", op, err)
		}
		h.empty(t, op, spec)
	}
	v := start(t, d, spec)
	ping(t, v)
	boot := run(t, v, "cat", "/proc/sys/kernel/random/boot_id")
	snap := drivertest.Snapshot(t, spec)
	must(t, v.Pause(t.Context()))
	must(t, v.Snapshot(t.Context(), snap))
	must(t, v.Kill(t.Context()))
	must(t, v.Close())
	for _, op := range seams["Restore"] {
		h.die(t, d, "Restore", op, spec)
		if _, err := d.Recover(t.Context(), spec); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("recover after a death at %s: %v, want not found", op, err)
		}
		h.empty(t, op, spec)
	}
	v, err := d.Restore(t.Context(), spec, snap)
	must(t, err)
	must(t, v.Resume(t.Context()))
	if got := run(t, v, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id %q, want %q", got, boot)
	}
	must(t, v.Close())
}

// An agent is killed at every named operation on a VMM: the next one recovers it
// and the guest goes on.
func TestKilledWhileHolding(t *testing.T) {
	h := newHost(t)
	d, spec := h.driver(t), h.spec(t, "i-00015000")
	drivertest.Snapshot(t, spec)
	v := start(t, d, spec)
	ping(t, v)
	must(t, v.Close())
	for _, call := range []string{"Pause", "Kill", "Resume", "Snapshot"} {
		for _, op := range seams[call] {
			v := h.held(t, d, spec)
			if call == "Resume" || call == "Snapshot" {
				must(t, v.Pause(t.Context()))
			}
			must(t, v.Close())
			h.die(t, d, call, op, spec)
			v = h.held(t, d, spec)
			must(t, v.Resume(t.Context()))
			ping(t, v)
			must(t, v.Close())
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(drivertest.SnapshotOf(spec).State), "map"))
	if err != nil || len(left) > 0 {
		t.Errorf("snapshots that were cut off left %v, %v", left, err)
	}
}

func (h *host) held(t *testing.T, d driver.Driver, spec driver.Spec) driver.VMM {
	t.Helper()
	v, err := d.Recover(t.Context(), spec)
	must(t, err)
	return v
}

// empty fails the test when something is left in the run folder, or a cgroup.
func (h *host) empty(t *testing.T, op string, spec driver.Spec) {
	t.Helper()
	cgroups, _ := sys.CgroupDirs(spec.Cgroup) // a host may have none
	for _, dir := range cgroups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("after a death at %s there is the cgroup %s", op, dir)
		}
	}
	entries, err := os.ReadDir(spec.RunDir)
	must(t, err)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if slices.Sort(names); len(names) > 0 {
		t.Errorf("after a death at %s the run folder has %v", op, names)
	}
}
