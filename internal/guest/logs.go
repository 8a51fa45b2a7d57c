package guest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mvm/internal/guest/definition"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// agentLog is the name under which the guest agent's own log is kept.
const agentLog = definition.AgentLog

// serveLogs streams lines until there are no more or, following, the host hangs up.
func (a *Agent) serveLogs(ctx context.Context, conn *hostConn, l guestproto.Logs) {
	if !a.hasLog(l.Service) {
		_ = conn.send(errorResponse(errors.New("there is no service " + workload.Clip(l.Service))))
		return
	}
	ctx, release := watch(ctx, conn)
	defer release()
	// The host may take as long as it likes to read, but not when it has hung up.
	_ = conn.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	seq := max(a.journal.Tail(l.Service, l.Tail), a.journal.Resume(l.After))
	out := bufio.NewWriterSize(conn, workload.MaxLine) // many lines go out at once
	for {
		lines, next, more := a.journal.After(l.Service, seq, 256)
		seq = next
		for i := range lines {
			if guestproto.Send(out, guestproto.Response{LogLine: &lines[i]}) != nil {
				return
			}
		}
		if len(lines) > 0 {
			continue
		}
		if !l.Follow {
			_ = guestproto.Send(out, guestproto.Response{LogEnd: true})
			_ = out.Flush()
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) hasLog(service string) bool {
	return service == "" || service == agentLog ||
		slices.ContainsFunc(a.services, func(s workload.Service) bool { return s.Name == service })
}

// Log is the guest agent's own log. Records go to the journal, where the host finds
// them as service "mvm", and to the console, which is slow: once Quiet was called,
// only warnings and errors.
type Log struct {
	*slog.Logger
	quiet *atomic.Bool
}

// NewLog returns a log over both; console may be nil.
func NewLog(j *workload.Journal, console io.Writer) Log {
	h := &logHandler{journal: slog.NewTextHandler(journalWriter{j}, nil), quiet: new(atomic.Bool)}
	if console != nil {
		h.console = slog.NewTextHandler(console, nil)
	}
	return Log{Logger: slog.New(h), quiet: h.quiet}
}

// Quiet keeps mere information from the console from now on.
func (l Log) Quiet() {
	if l.quiet != nil {
		l.quiet.Store(true)
	}
}

type logHandler struct {
	journal, console slog.Handler
	quiet            *atomic.Bool
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.journal.Handle(ctx, r)
	if h.console != nil && (r.Level >= slog.LevelWarn || !h.quiet.Load()) {
		err = errors.Join(err, h.console.Handle(ctx, r))
	}
	return err
}

func (h *logHandler) with(change func(slog.Handler) slog.Handler) slog.Handler {
	c := &logHandler{journal: change(h.journal), quiet: h.quiet}
	if h.console != nil {
		c.console = change(h.console)
	}
	return c
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

// journalWriter takes one record at a time, as slog's handlers give it.
type journalWriter struct{ journal *workload.Journal }

func (w journalWriter) Write(p []byte) (int, error) {
	w.journal.Append(agentLog, agentLog, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
