package drivertest

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// stall is how long a paused guest is given to break the rule and answer.
const stall = 300 * time.Millisecond

// life is one instance through everything that can happen to it.
type life struct {
	*suite
	spec   driver.Spec
	before []string // files
	v      driver.VMM
	boot   string // the guest's boot id

	mayStay []string // files that a case has made itself
}

// testLife boots one guest and takes it through its life, case by case; a case
// that fails ends it.
func testLife(t *testing.T, s *suite) {
	l := &life{suite: s, spec: s.spec(t)}
	l.before = files(l.spec)
	for _, c := range l.cases() {
		if !t.Run(c.name, c.run) {
			return
		}
	}
}

// lifeCase is one case of a life.
type lifeCase struct {
	name string
	run  func(*testing.T)
}

// cases are the life's, without those for which the harness has no means.
func (l *life) cases() []lifeCase {
	all := []lifeCase{
		{"Start", l.start},
		{"ClosedPort", l.closedPort},
		{"ConcurrentDials", l.concurrentDials},
		{"BigTransfer", l.bigTransfer},
		{"ManyOpens", l.manyOpens},
		{"HostBound", l.hostBound},
		{"VSock", l.vsock},
		{"StartTwice", l.startTwice},
		{"PauseResume", l.pauseResume},
		{"PauseOften", l.pauseOften},
		{"SnapshotOfRunning", l.snapshotOfRunning},
		{"CanceledSleep", l.canceledSleep},
		{"RecoverRunning", l.recoverRunning},
		{"RecoverPaused", l.recoverPaused},
		{"Sleep", l.sleep},
		{"Misfit", l.misfit},
		{"RestoreGivenUp", l.restoreGivenUp},
		{"Wake", l.wake},
		{"SleepAgain", l.sleepAgain},
		{"WakeFromReady", l.wakeFromReady},
		{"HostBoundAgain", l.hostBound},
		{"Poweroff", l.poweroff},
		{"Destroy", l.destroy},
	}
	return slices.DeleteFunc(all, func(c lifeCase) bool {
		return c.name == "VSock" && !l.VSock || c.name == "WakeFromReady" && l.Ready == nil
	})
}

func (l *life) start(t *testing.T) {
	l.v = l.suite.start(t, l.spec)
	l.awake(t, l.v)
	l.boot = l.bootID(t, l.v)
	if paused, err := l.v.Paused(t.Context()); err != nil || paused {
		t.Errorf("paused after start: %v, %v", paused, err)
	}
	info, err := l.Driver.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Features.Process != (l.v.PID() > 0) {
		t.Errorf("pid %d with process feature %v", l.v.PID(), info.Features.Process)
	}
	st, err := l.v.Stats(t.Context())
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	if info.Features.Process && (st.CPU <= 0 || st.RSSBytes <= 0) {
		t.Errorf("stats of a guest that booted: %+v", st)
	}
}

func (l *life) startTwice(t *testing.T) {
	_, err := l.Driver.Start(t.Context(), l.spec)
	wantKind(t, "second start", err, mvm.KindState, mvm.KindExists)
	l.awake(t, l.v)
}

func (l *life) pauseResume(t *testing.T) {
	ctx := t.Context()
	l.remember(t, l.v, "before the pause")
	c, err := l.v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := guestproto.Call(ctx, c, guestproto.Request{Ping: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := l.v.Pause(ctx); err != nil {
			t.Fatalf("pause: %v", err)
		}
	}
	if paused, err := l.v.Paused(ctx); err != nil || !paused {
		t.Errorf("paused: %v, %v", paused, err)
	}
	if err := guestproto.Send(c, guestproto.Request{Ping: true}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(stall))
	var resp guestproto.Response
	if err := guestproto.Receive(c, &resp); !timedOut(err) {
		t.Fatalf("a paused guest answered %+v, %v", resp, err)
	}
	if err := ping(ctx, l.v, stall); err == nil {
		t.Error("a paused guest answered on a new stream")
	}
	for range 2 {
		if err := l.v.Resume(ctx); err != nil {
			t.Fatalf("resume: %v", err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(l.Patience))
	if err := guestproto.Receive(c, &resp); err != nil || !resp.Pong {
		t.Errorf("after the resume the stream that was open gave %+v, %v", resp, err)
	}
	l.remembers(t, l.v, "before the pause")
}

// pauseOften pauses and resumes while streams are opened and used: none is lost.
func (l *life) pauseOften(t *testing.T) {
	var talkers sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		talkers.Go(func() {
			for n := 0; n < 10 && errs[i] == nil; n++ {
				errs[i] = ping(t.Context(), l.v, l.Patience)
			}
		})
	}
	for range 20 {
		if err := l.v.Pause(t.Context()); err != nil {
			t.Errorf("pause: %v", err)
		}
		if err := l.v.Resume(t.Context()); err != nil {
			t.Errorf("resume: %v", err)
		}
	}
	talkers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func (l *life) snapshotOfRunning(t *testing.T) {
	err := l.v.Snapshot(t.Context(), l.snapshot(t, l.spec))
	wantKind(t, "snapshot of a running VMM", err, mvm.KindState)
	l.awake(t, l.v)
}

// canceledSleep: a snapshot was made, and the instance just goes on.
func (l *life) canceledSleep(t *testing.T) {
	l.remember(t, l.v, "before the sleep that was cancelled")
	snap := l.snapshot(t, l.spec)
	if err := l.v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.v.Snapshot(t.Context(), snap); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	if paused, err := l.v.Paused(t.Context()); err != nil || !paused {
		t.Errorf("paused after the snapshot: %v, %v", paused, err)
	}
	if err := l.v.Resume(t.Context()); err != nil {
		t.Fatalf("resume after the snapshot: %v", err)
	}
	gone := l.files(t, l.spec, snap)
	if l.Plain {
		gone = gone[:1] // the rest may be what the memory of the guest is over
	}
	for _, f := range gone {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	l.remembers(t, l.v, "before the sleep that was cancelled")
}

// restart lets go of the VMM and recovers it with another Driver.
func (l *life) restart(t *testing.T) {
	t.Helper()
	if err := l.v.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	pid := l.v.PID()
	l.Driver = l.Again()
	v, err := l.Driver.Recover(t.Context(), l.spec)
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	if v.PID() != pid {
		t.Errorf("recovered pid %d, want %d", v.PID(), pid)
	}
	l.v = v
}

func (l *life) recoverRunning(t *testing.T) {
	l.remember(t, l.v, "before the restart")
	l.restart(t)
	l.remembers(t, l.v, "before the restart")
	if got := l.bootID(t, l.v); got != l.boot {
		t.Errorf("boot id %q, want %q", got, l.boot)
	}
}

func (l *life) recoverPaused(t *testing.T) {
	if err := l.v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.restart(t)
	if paused, err := l.v.Paused(t.Context()); err != nil || !paused {
		t.Errorf("paused: %v, %v", paused, err)
	}
	if err := l.v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.remembers(t, l.v, "before the restart")
}
