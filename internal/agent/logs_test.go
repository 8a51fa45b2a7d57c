package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestlog"
)

// logs are the texts of the workload's lines: those of the guest's agent are left out.
func (h *host) logs(id string, spec mvm.LogsSpec) (texts []string, err error) {
	h.t.Helper()
	err = h.a.Logs(ctx(h.t), mvm.Address{Instance: id}, spec, func(l mvm.LogLine) error {
		if l.Stream != "mvm" {
			texts = append(texts, l.Text)
		}
		return nil
	})
	return texts, err
}

func (h *host) wantLogs(id string, spec mvm.LogsSpec, want ...string) {
	h.t.Helper()
	got, err := h.logs(id, spec)
	if err != nil || !slices.Equal(got, want) {
		h.t.Errorf("logs %+v: %q, %v; want %q", spec, got, err, want)
	}
}

// kept waits until the host keeps what the guest has logged: it shows it of an instance
// that is paused.
func (h *host) kept(id string, want ...string) {
	h.t.Helper()
	waitUntil(h.t, func() bool {
		h.do(id, mvm.OpWarm)
		got, err := h.logs(id, mvm.LogsSpec{})
		if err != nil {
			h.t.Fatal(err)
		}
		h.do(id, mvm.OpResume)
		return slices.Equal(got, want)
	})
}

func (h *host) state(id string) mvm.State {
	h.t.Helper()
	i, err := h.a.Instance(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return i.State
}

func TestLogsOutliveTheGuest(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.exec(i.ID, "logger", "one")
	h.kept(i.ID, "one")
	h.do(i.ID, mvm.OpSleep)
	h.wantLogs(i.ID, mvm.LogsSpec{}, "one")
	h.wantLogs(i.ID, mvm.LogsSpec{Service: "main", Tail: 50, Follow: true}, "one") // which ends
	h.wantLogs(i.ID, mvm.LogsSpec{Since: time.Now().Add(time.Hour)})
	h.wantLogs(i.ID, mvm.LogsSpec{Since: time.Now().Add(-time.Hour)}, "one")
	h.wantLogs(i.ID, mvm.LogsSpec{Previous: true})
	h.wantLogs(i.ID, mvm.LogsSpec{Record: true, Previous: true}) // of a tenant's client, which is on record
	if ev := h.events(); ev[len(ev)-1].Action != mvm.LogsRead || ev[len(ev)-1].Detail != "previous" {
		t.Errorf("the last event is %+v", ev[len(ev)-1])
	}
	if st := h.state(i.ID); st != mvm.StateSleeping {
		t.Errorf("after its logs were read it is %s", st)
	}

	h.do(i.ID, mvm.OpWake)
	h.exec(i.ID, "logger", "two")
	h.wantLogs(i.ID, mvm.LogsSpec{}, "one", "two") // the guest's own
	h.wantLogs(i.ID, mvm.LogsSpec{Since: time.Now().Add(time.Hour)})
	h.kept(i.ID, "one", "two")
	h.host.Crash(i.ID)
	waitUntil(t, func() bool { return h.state(i.ID) == mvm.StateStopped })
	h.wantLogs(i.ID, mvm.LogsSpec{}, "one", "two")
	h.stop()
	h.start()
	h.wantLogs(i.ID, mvm.LogsSpec{}, "one", "two")

	h.do(i.ID, mvm.OpStart)
	h.exec(i.ID, "logger", "three")
	h.wantLogs(i.ID, mvm.LogsSpec{}, "three")
	h.wantLogs(i.ID, mvm.LogsSpec{Previous: true}, "one", "two")
	h.kept(i.ID, "three")
	h.do(i.ID, mvm.OpStop)
	h.wantLogs(i.ID, mvm.LogsSpec{}, "three")
	h.wantLogs(i.ID, mvm.LogsSpec{Previous: true}, "one", "two")
	// A boot that comes to nothing takes no place.
	h.failing(func(op fake.Op, _ string) error {
		if op == fake.OpStart {
			return mvm.Errorf(mvm.KindInternal, "no VMM")
		}
		return nil
	})
	if _, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpStart}, nil); err == nil {
		t.Fatal("it started")
	}
	h.failing(nil)
	h.wantLogs(i.ID, mvm.LogsSpec{}, "three")
	h.wantLogs(i.ID, mvm.LogsSpec{Previous: true}, "one", "two")
	if _, err := h.logs(i.ID, mvm.LogsSpec{Service: "nosuch"}); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("logs of no such service: %v, want not found", err)
	}
	h.do(i.ID, mvm.OpDestroy)
	h.wantNothing()
}

// What never ran has no logs, and that is no error. What does not go together is refused.
func TestLogsOfWhatNeverRan(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	n, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []mvm.LogsSpec{{}, {Previous: true}, {Tail: 3, Service: "main", Follow: true}} {
		h.wantLogs(n.ID, spec)
	}
	for _, spec := range []mvm.LogsSpec{{Console: true, Previous: true}, {Console: true, Since: time.Now()}, {Previous: true, Follow: true}} {
		if _, err := h.logs(i.ID, spec); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("logs %+v: %v, want invalid", spec, err)
		}
	}
}

// An agent that restarts goes on where the one before ended: no line twice, none lost.
func TestLogsGoOnAfterARestart(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	var want []string
	for n := range 5 {
		for range 3 {
			want = append(want, fmt.Sprintf("line %d", len(want)))
			h.exec(i.ID, "logger", want[len(want)-1])
		}
		if n%2 == 0 {
			h.kept(i.ID, want...)
		}
		h.stop()
		h.start()
	}
	h.kept(i.ID, want...)
}

// A guest that can't be asked is no reason to show nothing.
func TestLogsOfAGuestThatDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.exec(i.ID, "logger", "one")
	h.kept(i.ID, "one")
	h.host.Behave(i.ID, fake.Behavior{Only: []string{"Logs"}, Silent: true})
	got, err := h.logs(i.ID, mvm.LogsSpec{})
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "does not answer") || !slices.Equal(got, []string{"one"}) {
		t.Errorf("logs: %q, %v; want what the host keeps, and that the guest does not answer", got, err)
	}
	// An order is an order: following one has to wait.
	c, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err = h.a.Logs(c, mvm.Address{Instance: i.ID}, mvm.LogsSpec{Follow: true}, func(mvm.LogLine) error { return nil })
	if c.Err() == nil {
		t.Errorf("a followed log ended with %v", err)
	}
}

// Logs that can't be kept are lost, and nothing else: a folder in the place of the file
// stands for a disk that does not take them.
func TestLogsThatCannotBeKept(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.exec(i.ID, "logger", "one")
	h.kept(i.ID, "one")
	path := filepath.Join(h.dir, "instances", i.ID, guestlog.Names()[0])
	must(t, os.Remove(path))
	must(t, os.Mkdir(path, 0o700))
	h.exec(i.ID, "logger", "two")
	h.do(i.ID, mvm.OpSleep)
	if got, err := h.logs(i.ID, mvm.LogsSpec{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("logs: %q, %v; want an error that names the file", got, err)
	}
	h.do(i.ID, mvm.OpWake)
	h.wantLogs(i.ID, mvm.LogsSpec{}, "one", "two") // the guest's own
	must(t, os.Remove(path))
	h.exec(i.ID, "logger", "three")
	h.do(i.ID, mvm.OpSleep)
	waitUntil(t, func() bool { return strings.Contains(h.logged(), "lines of the guest's log are lost") })
	h.do(i.ID, mvm.OpDestroy)
	h.wantNothing()
}

// That the host follows a guest's log is no use of it: the guest goes to rest as soon as
// any, and what it said is there.
func TestFollowingIsNoUse(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.exec(i.ID, "logger", "one")
		h.want(9*time.Second, i.ID, mvm.StateRunning)
		if v := h.host.host.VMMs(); len(v) != 1 || v[0].Streams != 1 {
			t.Errorf("it is not followed: %+v", v)
		}
		h.want(3*time.Second, i.ID, mvm.StateWarm)
		h.want(11*time.Second, i.ID, mvm.StateSleeping)
		h.wantLogs(i.ID, mvm.LogsSpec{}, "one")
		h.want(time.Hour, i.ID, mvm.StateSleeping)
		for _, e := range h.events() {
			if e.Action == mvm.LogsRead {
				t.Errorf("on record is %+v", e)
			}
		}
	})
}
