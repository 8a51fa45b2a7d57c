package guest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"mvm/internal/guestproto"
)

// agentLog is the name under which the guest agent's own log is kept.
const agentLog = "mvm"

// serveLogs streams lines until there are no more or, following, the host hangs up.
func (a *Agent) serveLogs(ctx context.Context, conn *hostConn, l guestproto.Logs) {
	if !a.hasLog(l.Service) {
		_ = conn.send(errorResponse(errors.New("there is no service " + clip(l.Service))))
		return
	}
	ctx, release := watch(ctx, conn)
	defer release()
	// The host may take as long as it likes to read, but not when it has hung up.
	_ = conn.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	seq := a.journal.Tail(l.Service, l.Tail)
	for {
		lines, next, more := a.journal.After(l.Service, seq, 256)
		seq = next
		for i := range lines {
			if guestproto.Send(conn, guestproto.Response{LogLine: &lines[i]}) != nil {
				return
			}
		}
		if len(lines) > 0 {
			continue
		}
		if !l.Follow {
			_ = guestproto.Send(conn, guestproto.Response{LogEnd: true})
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
		slices.ContainsFunc(a.services, func(s Service) bool { return s.Name == service })
}

// NewLogger returns a logger that writes to the console and to the journal, where
// the host finds it as service "mvm".
func NewLogger(j *Journal, console io.Writer) *slog.Logger {
	h := slog.NewTextHandler(&logWriter{j, console}, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, at slog.Attr) slog.Attr {
			if at.Key == slog.TimeKey && len(groups) == 0 {
				return slog.String(slog.TimeKey, at.Value.Time().UTC().Format(time.RFC3339Nano))
			}
			return at
		}})
	return slog.New(h)
}

type logWriter struct {
	journal *Journal
	console io.Writer
}

// Write takes one record, as slog gives it.
func (w *logWriter) Write(p []byte) (int, error) {
	if n := len(p); n > 0 && p[n-1] == '\n' {
		w.journal.Append(agentLog, agentLog, string(p[:n-1]))
	}
	if w.console != nil {
		_, _ = w.console.Write(p) // a console that is gone must not stop the agent
	}
	return len(p), nil
}
