package vm_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

// The policy of the test: seconds of idleness after which the worker rests.
const (
	openClawWarm  = 6
	openClawSleep = 16
)

// overrideIsOver, of a whole host and not of one that is on a part of a test, ends the minutes for which an instance that somebody operated by hand
// is left alone, as their time would. Its VMM runs on meanwhile.
func (h *host) overrideIsOver(id string) {
	h.t.Helper()
	h.stop()
	st, err := store.Open(filepath.Join(h.data, "state.db"))
	must(h.t, err)
	must(h.t, st.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		i.ManualOverrideUntil = time.Time{}
		return tx.PutInstance(i)
	}))
	must(h.t, st.Close())
	h.start()
}

// wantAwake checks that the instance runs for longer than an idle one would, and that
// it says why.
func (o *openClaw) wantAwake(because string) {
	o.t.Helper()
	said := ""
	for end := time.Now().Add((openClawWarm + 5) * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		i := o.get(o.id)
		if i.State != mvm.StateRunning {
			o.t.Fatalf("it is %s because %q, want it awake because of %q", i.State, i.Last.Reason, because)
		}
		if i.Idle != nil {
			said = i.Idle.Awake
		}
	}
	if !strings.Contains(said, because) {
		o.t.Errorf("it is awake because %q, want %q", said, because)
	}
}

// testLeftAlone: OpenClaw's worker goes warm and then to sleep by itself when nobody
// uses it, and not while it is in use in any of the ways there are. The next message
// wakes it.
func (o *openClaw) testLeftAlone() {
	o.setPolicy(func(p *mvm.RuntimePolicy) {
		p.WarmAfterSeconds, p.SleepAfterSeconds, p.MinRunningSeconds, p.MinWarmSeconds = openClawWarm, openClawSleep, 1, 1
		p.IdleCPUPercent, p.IdleBytesPerMinute = 180, 4<<20 // the CPU is emulated, and a message has a long history
	})
	before := o.process()
	for name, busy := range map[string]func(testing.TB){
		"a turn": o.busyTurn, "a tool's command": o.busyCommand, "a connection": o.busyConnection, "a command of mvm's": o.busyExec,
	} {
		o.say("is anybody there")
		o.t.(*testing.T).Run(name, func(t *testing.T) { busy(t) })
	}
	rested := time.Now()
	for _, want := range []mvm.State{mvm.StateWarm, mvm.StateSleeping} {
		testenv.Eventually(o.t, patience, func() error {
			if i := o.get(o.id); i.State != want || i.Op != nil {
				return mvm.Errorf(mvm.KindState, "it is %s, idle %+v, problem %q", i.State, i.Idle, i.Problem)
			}
			return nil
		})
		i := o.get(o.id)
		o.t.Logf("%s after %s: %s", want, time.Since(rested).Round(time.Second), i.Last.Reason)
		if i.Last.By.Kind != mvm.AskerPolicy || !i.Parked || !i.Held {
			o.t.Errorf("%s by %s, parked %v, held %v; want it by the policy, with OpenClaw holding still", want, i.Last.By, i.Parked, i.Held)
		}
	}
	took := o.say("good morning")
	o.t.Logf("answered after %s; %s", took.Round(time.Millisecond), o.stages(o.id))
	if i := o.get(o.id); i.Last.Op != mvm.OpWake || i.Last.Kind != "warm" || !strings.HasPrefix(i.Last.By.String(), "gateway:") {
		o.t.Errorf("it came back by %s %s of %s", i.Last.Kind, i.Last.Op, i.Last.By)
	}
	if now := o.process(); now != before {
		o.t.Errorf("OpenClaw is process %s, was %s", now, before)
	}
}

func (o *openClaw) busyTurn(t testing.TB) {
	o = o.on(t)
	got, release := o.model.hold()
	defer release()
	answered := make(chan error, 1)
	go func() {
		_, _, err := o.chat("wait for it")
		answered <- err
	}()
	select {
	case <-got:
	case err := <-answered:
		t.Fatalf("the turn ended before it was to: %v", err)
	}
	o.wantAwake("connection")
	release()
	must(t, <-answered)
}

func (o *openClaw) busyCommand(t testing.TB) {
	o = o.on(t)
	_, err := o.exec(o.id, "rm", "-f", endOfCommand)
	must(t, err)
	o.say("build it")
	o.wantAwake("background exec")
	must(t, o.write(o.id, endOfCommand, ""))
}

func (o *openClaw) busyConnection(t testing.TB) {
	o = o.on(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.TrimSuffix(o.url, "/v1/chat/completions"), &websocket.DialOptions{HTTPHeader: map[string][]string{"X-Mvm-User": {"alice"}}})
	must(t, err)
	defer func() { _ = c.CloseNow() }()
	_, _, err = c.Read(ctx) // OpenClaw's greeting, after which it says nothing until it gives up
	must(t, err)
	o.wantAwake("connection")
}

func (o *openClaw) busyExec(t testing.TB) {
	o = o.on(t)
	done := make(chan error, 1)
	go func() {
		_, err := o.exec(o.id, "/bin/bash", "-c", "while ! test -e /tmp/enough; do sleep 0.2; done")
		done <- err
	}()
	o.wantAwake("mvm exec")
	must(t, o.write(o.id, "/tmp/enough", ""))
	must(t, <-done)
}
