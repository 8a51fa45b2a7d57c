package host

import (
	"bufio"
	"io"
	"log/slog"
	"net/netip"
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

// maxResolvers is how many resolvers a guest's libc uses.
const maxResolvers = 3

// hostResolvers returns the host's IPv4 resolvers that guests can reach too: a stub on
// loopback is passed over for the resolvers behind it.
func hostResolvers(log *slog.Logger) []netip.Addr {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		if found := readResolvers(path); len(found) > 0 {
			return found
		}
	}
	log.Warn("the host has no resolver that guests can reach; name some with dns in the config")
	return nil
}

func readResolvers(path string) []netip.Addr {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var out []netip.Addr
	for sc := bufio.NewScanner(f); sc.Scan() && len(out) < maxResolvers; {
		words := strings.Fields(sc.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && a.Is4() && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}
