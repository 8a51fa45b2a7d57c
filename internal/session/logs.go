package session

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestlog"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

var errSilentGuest = mvm.Errorf(mvm.KindUnavailable, "its guest does not answer")

// Logs gives the lines of a log of the instance.
func (s *Sessions) Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	if err := checkLogs(spec); err != nil {
		return err
	}
	if spec.Console {
		return s.consoleLog(ctx, addr, spec, line)
	}
	i, err := s.opt.Guests.Instance(ctx, addr)
	if err != nil {
		return err
	}
	if spec.Record {
		s.RecordUse(ctx, mvm.LogsRead, i, logsDetail(spec))
	}
	if spec.Previous || i.State != mvm.StateRunning {
		return s.keptLogs(i, spec, line) // no more lines come
	}
	said, err := s.guestLogs(ctx, i, spec, line)
	if err != nil && !said && mvm.IsKind(err, mvm.KindUnavailable) {
		// The guest can't be asked: what the host has of it is better than nothing.
		return errors.Join(err, s.keptLogs(i, spec, line))
	}
	return err
}

// guestLogs shows what the guest has of its log, and reports whether the guest answered.
func (s *Sessions) guestLogs(ctx context.Context, i mvm.Instance, spec mvm.LogsSpec, line func(mvm.LogLine) error) (said bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(s.opt.Call, func() { cancel(errSilentGuest) })
	defer silent.Stop()
	c, err := s.opt.Guests.Dial(ctx, i.ID)
	if err != nil {
		return false, err
	}
	defer c.Close()
	release := guestproto.Bind(ctx, c)
	defer release()
	req := guestproto.Request{Logs: &guestproto.Logs{Service: spec.Service, Tail: spec.Tail, Follow: spec.Follow}}
	if err := guestproto.Send(c, req); err != nil {
		return false, mvm.Errorf(mvm.KindUnavailable, "ask %s for logs: %w", i.ID, err)
	}
	v := s.opt.Guests.VMM(i.ID)
	if spec.Follow { // which may have nothing to say for any time
		silent.Stop()
	}
	end, err := receiveLogs(&heard{Conn: c, once: func() { said = true; silent.Stop() }}, func(l mvm.LogLine) error {
		if l.Time.Before(spec.Since) {
			return nil
		}
		return line(l)
	})
	return said, s.logsEnded(ctx, i, spec, v, end, err)
}

// logsEnded is what the end of a guest's stream of lines means.
func (s *Sessions) logsEnded(ctx context.Context, i mvm.Instance, spec mvm.LogsSpec, v VMM, end *guestproto.Response, err error) error {
	switch {
	case end != nil && end.Error != nil:
		return s.logsRefused(ctx, i, spec.Service, end.Error.Message)
	case end != nil || err == nil:
		return err
	case errors.Is(context.Cause(ctx), errSilentGuest):
		return mvm.Errorf(mvm.KindUnavailable, "read logs of %s: %w", i.ID, errSilentGuest)
	case ctx.Err() != nil:
		return mvm.Errorf(mvm.KindCanceled, "read logs of %s: %w", i.ID, context.Cause(ctx))
	case spec.Follow && s.memoryEnded(ctx, i.ID, v):
		return nil
	}
	return mvm.Errorf(mvm.KindUnavailable, "read logs of %s: the stream from the guest ended: %w", i.ID, err)
}

// memoryEnded reports whether the guest that was talked to is no more, because it was put
// to sleep, stopped or destroyed, or its VMM ended.
func (s *Sessions) memoryEnded(ctx context.Context, id string, v VMM) bool {
	if v == nil || s.opt.Guests.VMM(id) != v {
		return true
	}
	return wait.For(ctx, v.Done(), s.opt.Call) == wait.Gone || s.opt.Guests.VMM(id) != v
}

// logsRefused is why the guest gives no logs. Only what it says of its services tells
// whether the one that was asked for is missing.
func (s *Sessions) logsRefused(ctx context.Context, i mvm.Instance, service, why string) error {
	st, err := s.opt.Guests.Status(ctx, i)
	if err != nil || service == "" {
		return mvm.Errorf(mvm.KindUnavailable, "logs of %s: %s", i.ID, display.Clip(why))
	}
	var names []string
	for _, has := range st.Services {
		if has.Name == service {
			return mvm.Errorf(mvm.KindUnavailable, "logs of %s: %s", i.ID, display.Clip(why))
		}
		names = append(names, has.Name)
	}
	return mvm.Errorf(mvm.KindNotFound, "instance %s has no service %.80q", i.Address(), service).
		WithFix("use one of %s, or mvm for the guest agent", display.Clip(strings.Join(names, ", ")))
}

// receiveLogs gives the lines that the guest sends. end is the last message, nil where
// the stream ended without the guest saying so; err is that, or what line failed with.
func receiveLogs(c net.Conn, line func(mvm.LogLine) error) (end *guestproto.Response, err error) {
	for {
		var r guestproto.Response
		if err := guestproto.Receive(c, &r); err != nil {
			return nil, err
		}
		switch {
		case r.LogEnd, r.Error != nil:
			return &r, nil
		case r.LogLine != nil:
			if err := line(mvm.LogLine{Time: r.LogLine.Time, Service: r.LogLine.Service, Stream: r.LogLine.Stream, Text: r.LogLine.Text}); err != nil {
				return &r, err
			}
		}
	}
}

// heard calls once when something is read from the connection.
type heard struct {
	net.Conn
	once func()
}

// Read reads.
func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 && h.once != nil {
		h.once()
		h.once = nil
	}
	return n, err
}

// keptLogs shows what the host keeps of the guest's log.
func (s *Sessions) keptLogs(i mvm.Instance, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	s.opt.Guests.FlushLog(i.ID)
	q := guestlog.Query{Previous: spec.Previous, Service: spec.Service, Since: spec.Since, Tail: spec.Tail}
	if i.State.HoldsMemory() || i.State == mvm.StateSleeping {
		q.Boot = i.DiskGeneration // else a boot that came to nothing may have been after the last lines
	}
	err := s.opt.Guests.InFolder(i.ID, "read logs", func(d *sys.Folder) error {
		return guestlog.Read(d, q, func(l guestlog.Line) error {
			return line(mvm.LogLine{Time: l.Time, Service: l.Service, Stream: l.Stream, Text: l.Text})
		})
	})
	return sys.IfThere(err)
}

// checkLogs refuses what does not go together.
func checkLogs(spec mvm.LogsSpec) error {
	switch {
	case spec.Console && (spec.Previous || !spec.Since.IsZero()):
		return mvm.Errorf(mvm.KindInvalid, "console logs: console lines have no time and no boot").WithFix("leave out since and previous")
	case spec.Previous && spec.Follow:
		return mvm.Errorf(mvm.KindInvalid, "follow the logs of the previous boot: a past boot writes no new lines").WithFix("leave out follow")
	}
	return nil
}

// logsDetail is what is recorded of a look at logs.
func logsDetail(spec mvm.LogsSpec) string {
	if spec.Previous && spec.Service == "" {
		return "previous"
	}
	if spec.Previous {
		return spec.Service + ", previous"
	}
	return spec.Service
}
