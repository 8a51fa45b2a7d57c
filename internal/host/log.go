package host

import (
	"bufio"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// newLogger writes the agent's log to stderr: coloured on a terminal.
func newLogger(level, format string) *slog.Logger {
	var least slog.Level
	_ = least.UnmarshalText([]byte(level)) // checked by the config
	switch {
	case format == "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: least}))
	case term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("NO_COLOR") == "":
		return slog.New(tint.NewTextHandler(os.Stderr, &tint.Options{Level: least, TimeFormat: "15:04:05.000"}))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: least}))
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
