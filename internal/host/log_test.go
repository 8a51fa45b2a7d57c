package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mvm/internal/display"
	"mvm/internal/host"
	"mvm/internal/testenv"
)

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// TestLogShowsTextOfOthersSafely logs what a hostile guest says, in each format and to a
// terminal.
func TestLogShowsTextOfOthersSafely(t *testing.T) {
	const evil = "EVIL\x1b]0;owned\x07\x1b[35mpink\x1b[2J\u009b31m\x7f\u202e\u200b\u2028\xff\nmvm: FORGED"
	write := func(t *testing.T, w *os.File, format string) {
		log := host.NewLogger(w, "debug", format)
		log.Info("guest says", "text", evil, "error", errors.New(evil), "list", []string{evil}, "literal", `\x1b[35m`)
		log.With("instance", evil).WithGroup("g").Warn("again", "text", evil)
	}
	check := func(t *testing.T, got string) {
		t.Helper()
		for _, r := range got {
			if display.Hidden(r) && r != '\n' {
				t.Fatalf("%U in %q", r, got)
			}
		}
		if !strings.Contains(got, "EVIL") || regexp.MustCompile(`(?m)^mvm: FORGED`).MatchString(got) {
			t.Errorf("got %q", got)
		}
	}
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			write(t, f, format)
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			check(t, string(b))
		})
		t.Run(format+" on a terminal", func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			tty, written := testenv.Terminal(t)
			write(t, tty, format)
			got := written()
			check(t, sgr.ReplaceAllString(got, ""))
			if n := strings.Count(got, "\x1b[35m"); n > 1 { // in the list, which tint writes by itself: a colour is all that passes
				t.Errorf("%d colours of a guest in %q", n, got)
			}
		})
	}
}
