package session_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/session"
	"mvm/internal/sys"
)

// house is a host of one instance, and its guest.
type house struct {
	t      *testing.T
	i      mvm.Instance
	guest  func(c net.Conn, req guestproto.Request) // plays the guest on one stream
	folder string
	uses   int
	events []mvm.Event
}

func (h *house) Instance(context.Context, mvm.Address) (mvm.Instance, error) { return h.i, nil }
func (h *house) VMM(string) session.VMM                                      { return nil }
func (h *house) Stalled(string) string                                       { return "" }
func (h *house) FlushLog(string)                                             {}
func (h *house) Record(e mvm.Event)                                          { h.events = append(h.events, e) }

func (h *house) Status(context.Context, mvm.Instance) (guestproto.Status, error) {
	return guestproto.Status{}, errors.New("no status")
}

func (h *house) Use(string) func() {
	h.uses++
	return func() { h.uses-- }
}

func (h *house) InFolder(_, _ string, fn func(*sys.Folder) error) error {
	return sys.InFolder(h.folder, fn)
}

func (h *house) Dial(context.Context, string) (net.Conn, error) {
	host, guest := net.Pipe()
	go func() {
		defer guest.Close()
		var req guestproto.Request
		if err := guestproto.Receive(guest, &req); err != nil {
			h.t.Errorf("the guest reads: %v", err)
			return
		}
		h.guest(guest, req)
	}()
	return host, nil
}

func newHouse(t *testing.T) (*house, *session.Sessions) {
	h := &house{t: t, folder: t.TempDir(), i: mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "agents", State: mvm.StateRunning}}
	return h, session.New(t.Context(), session.Options{Guests: h, Journal: h, Console: "console.log", Call: 5 * time.Second})
}

// A command's output and exit code come from the guest; that it ran is on record, and it
// counts as use while it runs.
func TestExec(t *testing.T) {
	h, s := newHouse(t)
	h.guest = func(c net.Conn, req guestproto.Request) {
		if req.Exec == nil || strings.Join(req.Exec.Argv, " ") != "echo hi" || h.uses != 1 {
			t.Errorf("the guest was asked %+v, %d uses", req, h.uses)
		}
		send := func(v any) {
			if err := guestproto.Send(c, v); err != nil {
				t.Error(err)
			}
		}
		send(guestproto.Response{ExecStarted: &guestproto.ExecStarted{PID: 7}})
		var in guestproto.ExecFrame
		if err := guestproto.Receive(c, &in); err != nil || !in.CloseStdin {
			t.Errorf("stdin: %+v, %v", in, err)
		}
		send(guestproto.ExecFrame{Stdout: []byte("hi\n")})
		send(guestproto.ExecFrame{Exit: &guestproto.Exit{Code: 3}})
	}
	var out bytes.Buffer
	code, err := s.Exec(t.Context(), mvm.Address{Instance: h.i.ID}, mvm.ExecSpec{Argv: []string{"echo", "hi"}}, mvm.ExecIO{Stdout: &out})
	if err != nil || code != 3 || out.String() != "hi\n" {
		t.Errorf("code %d, output %q, %v", code, out.String(), err)
	}
	if len(h.events) != 1 || h.events[0].Action != mvm.ExecStarted || h.uses != 0 {
		t.Errorf("on record: %+v; %d uses are left", h.events, h.uses)
	}
}

// What does not run is not talked to, and the error says what to do.
func TestNothingRuns(t *testing.T) {
	h, s := newHouse(t)
	h.i.State = mvm.StateSleeping
	_, err := s.Exec(t.Context(), mvm.Address{Instance: h.i.ID}, mvm.ExecSpec{Argv: []string{"true"}}, mvm.ExecIO{})
	if !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "--wake") || len(h.events) != 0 {
		t.Errorf("a command in a sleeper: %v, %+v", err, h.events)
	}
}

// The console's log is read whether the instance runs or not, and its last lines are those
// that tell.
func TestConsole(t *testing.T) {
	h, s := newHouse(t)
	h.i.State = mvm.StateStopped
	err := sys.InFolder(h.folder, func(d *sys.Folder) error {
		return d.WriteFile("console.log", []byte("one\ntwo\nKernel panic - not syncing: it\nthree\n"), false)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = s.Logs(t.Context(), mvm.Address{Instance: h.i.ID}, mvm.LogsSpec{Console: true, Tail: 2, Record: true}, func(l mvm.LogLine) error {
		got = append(got, l.Text)
		return nil
	})
	if err != nil || strings.Join(got, "|") != "Kernel panic - not syncing: it|three" || len(h.events) != 1 {
		t.Errorf("got %q, %v, on record %+v", got, err, h.events)
	}
	if last := s.LastConsole(h.i.ID); len(last) != 4 || last[3] != "three" {
		t.Errorf("the last lines are %q", last)
	}
}
