package vm_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
)

// death is an operation in which the agent is killed with SIGKILL.
type death struct {
	op      mvm.OpKind
	prepare []mvm.OpKind // from running
	points  []string     // nil: all
	// ends are the states that the instance may have when the next agent is done.
	ends []mvm.State
	// keeps: the guest goes on where it was.
	keeps bool
}

// TestKilledOnFake kills the agent at every named point of every operation.
func TestKilledOnFake(t *testing.T) {
	t.Parallel()
	h := newHost(t, "fake")
	h.deploy("[tenant]\nid = \"acme\"\n[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\ndata_disk_mib = 16\n")
	for _, d := range []death{
		{mvm.OpStart, []mvm.OpKind{mvm.OpStop}, nil, []mvm.State{mvm.StateRunning, mvm.StateStopped}, false},
		{mvm.OpSleep, nil, nil, []mvm.State{mvm.StateRunning, mvm.StateSleeping}, true},
		{mvm.OpSleep, []mvm.OpKind{mvm.OpWarm}, nil, []mvm.State{mvm.StateRunning, mvm.StateSleeping, mvm.StateWarm}, true},
		{mvm.OpWake, []mvm.OpKind{mvm.OpSleep}, nil, []mvm.State{mvm.StateRunning, mvm.StateSleeping}, true},
		{mvm.OpWarm, nil, nil, []mvm.State{mvm.StateRunning, mvm.StateWarm}, true},
		{mvm.OpResume, []mvm.OpKind{mvm.OpWarm}, nil, []mvm.State{mvm.StateRunning, mvm.StateWarm}, true},
		{mvm.OpStop, nil, nil, []mvm.State{mvm.StateRunning, mvm.StateStopped}, false},
		{mvm.OpStop, []mvm.OpKind{mvm.OpSleep}, nil, []mvm.State{mvm.StateSleeping, mvm.StateStopped}, false},
		{mvm.OpDestroy, nil, nil, []mvm.State{mvm.StateRunning, mvm.StateDestroyed}, false},
	} {
		for _, p := range h.points(d) {
			h.killOnce(d, p)
		}
	}
}

// TestKilledOnQEMU kills the agent at the points at which most can go wrong.
func TestKilledOnQEMU(t *testing.T) {
	h := newHost(t, "qemu")
	h.deploy("[tenant]\nid = \"acme\"\n" + workerPool("workers", 0))
	for _, d := range []death{
		{mvm.OpSleep, nil, []string{"sleep.prepare:after", "sleep.pause:after", "sleep.snapshot:after", "sleep.commit:before"},
			[]mvm.State{mvm.StateRunning}, true},
		{mvm.OpSleep, nil, []string{"sleep.commit:after", "sleep.release:after"}, []mvm.State{mvm.StateSleeping}, true},
		{mvm.OpWake, []mvm.OpKind{mvm.OpSleep}, []string{"wake.network:after", "wake.restore:after", "wake.consume:after",
			"wake.resume:after", "wake.gate:after", "wake.open:after"}, []mvm.State{mvm.StateRunning}, true},
		{mvm.OpStop, nil, []string{"stop.shutdown:before", "stop.release:after"}, []mvm.State{mvm.StateStopped}, false},
		{mvm.OpStart, []mvm.OpKind{mvm.OpStop}, []string{"start.vmm:after", "start.gate:after"}, []mvm.State{mvm.StateRunning}, false},
		{mvm.OpDestroy, nil, []string{"destroy.release:before", "destroy.files:before"}, []mvm.State{mvm.StateDestroyed}, false},
	} {
		for _, p := range d.points {
			h.killOnce(d, p)
		}
	}
}

// running returns the pool's instance, made anew when there is none, and running.
func (h *host) running() mvm.Instance {
	h.t.Helper()
	for _, i := range h.instances() {
		if i.Pool == "workers" {
			return h.do(i.ID, mvm.OpStart)
		}
	}
	i, err := h.client.CreateInstance(h.ctx(), "acme", "workers", "")
	must(h.t, err)
	h.seen[i.ID] = true
	return h.do(i.ID, mvm.OpStart)
}

// points are the points that the operation passes when nothing goes wrong.
func (h *host) points(d death) []string {
	h.t.Helper()
	i := h.running()
	for _, op := range d.prepare {
		h.do(i.ID, op)
	}
	must(h.t, os.WriteFile(h.path(pointsFile), nil, 0o600))
	h.do(i.ID, d.op)
	b, err := os.ReadFile(h.path(pointsFile))
	must(h.t, err)
	must(h.t, os.Remove(h.path(pointsFile)))
	// What reconcile looks at meanwhile is no part of the operation.
	points := slices.DeleteFunc(strings.Fields(string(b)), func(p string) bool { return strings.HasPrefix(p, "reconcile.") })
	if len(points) < 4 {
		h.t.Fatalf("%s passes the points %v only", d.op, points)
	}
	return points
}

// trace is what tells whether a guest went on, and what its disk must keep.
type trace struct{ boot, disk string }

// mark leaves a trace in a running guest.
func (h *host) mark(id, text string) {
	h.t.Helper()
	must(h.t, h.write(id, "/data/mark", text))
	if h.driver == "qemu" {
		_, err := h.exec(id, "sync")
		must(h.t, err)
	}
}

func (h *host) trace(id string) (tr trace) {
	h.t.Helper()
	var err error
	tr.boot, err = h.exec(id, "cat", "/proc/sys/kernel/random/boot_id")
	must(h.t, err)
	tr.disk, err = h.exec(id, "cat", "/data/mark")
	must(h.t, err)
	return tr
}

// killOnce kills the agent at the point of the operation, and looks at what the next
// one makes of it.
func (h *host) killOnce(d death, point string) {
	h.t.Helper()
	what := fmt.Sprintf("killed at %s after %v", point, d.prepare)
	i := h.running()
	h.mark(i.ID, strings.NewReplacer(".", "-", ":", "-").Replace(point))
	before := h.trace(i.ID)
	for _, op := range d.prepare {
		h.do(i.ID, op)
	}
	h.killAt(point)
	if _, err := h.try(i.ID, d.op); err == nil {
		h.t.Fatalf("%s: the operation ended well", what)
	}
	h.died()
	h.killAt("")
	h.start()
	state := h.settled(i.ID, d.ends)
	if !slices.Contains(d.ends, state) {
		h.t.Fatalf("%s: it is %s, want one of %v\n%s", what, state, d.ends, h.log())
	}
	h.t.Logf("%s: it is %s", what, state)
	h.wantOwned()
	if state == mvm.StateDestroyed {
		return
	}
	h.do(i.ID, mvm.OpStart)
	after := h.trace(i.ID)
	if after.disk != before.disk || d.keeps && after.boot != before.boot {
		h.t.Errorf("%s: the guest has %+v, want %+v\n%s", what, after, before, h.log())
	}
}

// settled waits until no operation is under way and returns the state: one of ends,
// when it comes to that in time.
func (h *host) settled(id string, ends []mvm.State) (state mvm.State) {
	h.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		i, err := h.client.Instance(h.ctx(), mvm.Address{Instance: id})
		if mvm.IsKind(err, mvm.KindNotFound) {
			return mvm.StateDestroyed
		}
		must(h.t, err)
		if i.Op == nil && slices.Contains(ends, i.State) || time.Now().After(end) {
			return i.State
		}
	}
}
