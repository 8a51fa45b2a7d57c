package sim_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// keptLines is how much of a trace is kept for people, where it is not to be written to
// a file; its digest covers all.
const keptLines = 4000

// trace is what happened, in order.
type trace struct {
	began time.Time

	mu    sync.Mutex
	sum   hash.Hash
	lines []string
	n     int
}

func (t *trace) add(line string, counts bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sum == nil {
		t.sum = sha256.New()
	}
	text := fmt.Sprintf("%10.3f %s", time.Since(t.began).Seconds(), line)
	if counts {
		t.n++
		t.sum.Write([]byte(text + "\n"))
	}
	if !counts {
		text = "#" + strings.ReplaceAll(text, "\n", "\n#")
	}
	t.lines = append(t.lines, text)
	if len(t.lines) > 2*keptLines && *pointsFlag == "" {
		t.lines = append([]string(nil), t.lines[len(t.lines)-keptLines:]...)
	}
}

// digest names the whole trace.
func (t *trace) digest() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d:%s", t.n, hex.EncodeToString(t.sum.Sum(nil))[:16])
}

func (t *trace) tail(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines[len(t.lines)-min(n, len(t.lines)):], "\n")
}

// note adds to the trace.
func (w *world) note(format string, args ...any) { w.trace.add(fmt.Sprintf(format, args...), true) }

// fail says what is broken; the first one counts.
func (w *world) fail(format string, args ...any) {
	w.failLater(format, args...)
	w.trace.add("FAILED "+fmt.Sprintf(format, args...), false)
}

// failLater is fail for goroutines that are not the simulation's own.
func (w *world) failLater(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
	}
}

func (w *world) failed() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// traceLog puts what the agent logs into the trace, for people: it does not count.
type traceLog struct {
	w     *world
	attrs []slog.Attr
}

func (h *traceLog) Enabled(context.Context, slog.Level) bool { return true }

func (h *traceLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "    %s %s", r.Level, r.Message)
	add := func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true }
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.w.trace.add(b.String(), false)
	return nil
}

func (h *traceLog) WithAttrs(as []slog.Attr) slog.Handler {
	return &traceLog{w: h.w, attrs: append(append([]slog.Attr(nil), h.attrs...), as...)}
}

func (h *traceLog) WithGroup(string) slog.Handler { return h }
