package host

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"mvm/internal/display"
)

// newLogger writes the agent's log to w, coloured on a terminal. What guests and clients
// say is in it: nothing of that acts on the terminal of who reads it.
func newLogger(w *os.File, level, format string) *slog.Logger {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // checked by the config
	switch {
	case format == "json":
		return slog.New(slog.NewJSONHandler(jsonWriter{w}, &slog.HandlerOptions{Level: least}))
	case term.IsTerminal(int(w.Fd())) && os.Getenv("NO_COLOR") == "":
		return slog.New(tint.NewTextHandler(display.NewColourWriter(w), &tint.Options{Level: least, TimeFormat: "15:04:05.000", ReplaceAttr: plainText}))
	}
	return slog.New(slog.NewTextHandler(display.NewWriter(w), &slog.HandlerOptions{Level: least}))
}

// jsonWriter escapes what is hidden in lines of JSON.
type jsonWriter struct{ w io.Writer }

// Write writes one record.
func (j jsonWriter) Write(p []byte) (int, error) {
	if _, err := j.w.Write(display.JSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// plainText makes texts of a record show as they are. tint lets escape sequences through,
// and makes them of "\x1b" in a text as well: that is written otherwise.
func plainText(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch v := a.Value.Any().(type) {
	case string:
		text = v
	case error:
		text = v.Error()
	default:
		return a
	}
	a.Value = slog.StringValue(strings.ReplaceAll(display.Line(text), `\x1b`, `\u001b`))
	return a
}
