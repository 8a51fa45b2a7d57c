package display_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"mvm/internal/display"
)

func TestEscapes(t *testing.T) {
	for _, c := range []struct{ in, line, text string }{
		{"plain ünï 日本 👍", "plain ünï 日本 👍", "plain ünï 日本 👍"},
		{`C:\x1b`, `C:\x1b`, `C:\x1b`},
		{"a\tb\nc\rd", `a\tb\nc\rd`, "a\tb\nc\\rd"},
		{"\x1b[31m\x07\x00\x7f", `\x1b[31m\x07\x00\x7f`, `\x1b[31m\x07\x00\x7f`},
		{"\u0085\u009b", `\u0085\u009b`, `\u0085\u009b`},
		{"\x9b\xff\xe2\x80", `\x9b\xff\xe2\x80`, `\x9b\xff\xe2\x80`},
		{"\u202e\u2066\u200f\u061c", `\u202e\u2066\u200f\u061c`, `\u202e\u2066\u200f\u061c`},
		{"\u200b\u200d\u2060\ufeff\u00ad\u115f", `\u200b\u200d\u2060\ufeff\u00ad\u115f`, `\u200b\u200d\u2060\ufeff\u00ad\u115f`},
		{"\u2028\u2029\U000e0041", `\u2028\u2029\U000e0041`, `\u2028\u2029\U000e0041`},
		{"\ufffd", "\ufffd", "\ufffd"},
	} {
		if got := display.Line(c.in); got != c.line {
			t.Errorf("Line(%q) = %q, want %q", c.in, got, c.line)
		}
		if got := display.Text(c.in); got != c.text {
			t.Errorf("Text(%q) = %q, want %q", c.in, got, c.text)
		}
	}
}

func TestColours(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                            "plain",
		"\x1b[31mred\x1b[0m":               "\x1b[31mred\x1b[0m",
		"\x1b[1;38;5;208mx":                "\x1b[1;38;5;208mx\x1b[0m",
		"\x1b[48;2;1;2;3mx\x1b[m":          "\x1b[48;2;1;2;3mx\x1b[m",
		"a\tb\nc":                          "a\tb\\nc",
		"\x1b[8mhidden":                    `\x1b[8mhidden`,
		"\x1b[31;8mhidden":                 `\x1b[31;8mhidden`,
		"\x1b[38;5;8mgrey":                 "\x1b[38;5;8mgrey\x1b[0m",
		"\x1b[38;5mx":                      `\x1b[38;5mx`,
		"\x1b[38;5;256mx":                  `\x1b[38;5;256mx`,
		"\x1b[2J\x1b[H":                    `\x1b[2J\x1b[H`,
		"\x1b]8;;http://x\x07y":            `\x1b]8;;http://x\x07y`,
		"\x1b[999999999999999999999m":      `\x1b[999999999999999999999m`,
		"\x1b[" + strings.Repeat("1;", 99): `\x1b[` + strings.Repeat("1;", 99),
		"\x1b[?25l\x1b(0\u009b31m":         `\x1b[?25l\x1b(0\u009b31m`,
	} {
		if got := display.Coloured(in); got != want {
			t.Errorf("Coloured(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestWriterInPieces: what is written in pieces comes out as what is written at once.
func TestWriterInPieces(t *testing.T) {
	const in = "é\x1b[31mred\r\nx\rz\x1b[2J\u202e👍\xff\xe2\x82"
	for _, c := range []struct {
		make func(*bytes.Buffer) *display.Writer
		want string
	}{
		{func(b *bytes.Buffer) *display.Writer { return display.NewWriter(b) }, `é\x1b[31mred\r` + "\nx" + `\rz\x1b[2J\u202e👍\xff\xe2\x82`},
		{func(b *bytes.Buffer) *display.Writer { return display.NewColourWriter(b) }, "é\x1b[31mred\r\nx" + `\rz\x1b[2J\u202e👍\xff\xe2\x82` + "\x1b[0m"},
	} {
		for size := 1; size <= len(in); size++ {
			var b bytes.Buffer
			w := c.make(&b)
			for at := 0; at < len(in); at += size {
				part := in[at:min(at+size, len(in))]
				if n, err := w.Write([]byte(part)); err != nil || n != len(part) {
					t.Fatal(n, err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("in pieces of %d: %q, want %q", size, b.String(), c.want)
			}
		}
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

func noHidden(t *testing.T, what, s, keep string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("%s is no UTF-8: %q", what, s)
	}
	for _, r := range s {
		if display.Hidden(r) && !strings.ContainsRune(keep, r) {
			t.Errorf("%s has %U: %q", what, r, s)
			return
		}
	}
}

// FuzzDisplay: nothing hidden comes out of any of the functions, however the text is cut,
// and JSON means the same.
func FuzzDisplay(f *testing.F) {
	for _, s := range []string{"", "plain", "\x1b[31m\x1b[8m\u202e\xff\xe2\x82\r\n\u0085", "\x1b", "\x1b[", "\r", "\U000e0041\U0001d173"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, cut int) {
		noHidden(t, "Line", display.Line(s), "")
		noHidden(t, "Text", display.Text(s), "\n\t")
		noHidden(t, "Coloured", sgr.ReplaceAllString(display.Coloured(s), ""), "\t")
		if display.Clean(s) != (display.Line(s) == s) {
			t.Errorf("Clean(%q) = %v, Line %q", s, display.Clean(s), display.Line(s))
		}
		cut = min(max(cut, 0), len(s))
		for what, newWriter := range map[string]func(*bytes.Buffer) *display.Writer{
			"Writer":       func(b *bytes.Buffer) *display.Writer { return display.NewWriter(b) },
			"ColourWriter": func(b *bytes.Buffer) *display.Writer { return display.NewColourWriter(b) },
		} {
			var whole, parts bytes.Buffer
			w := newWriter(&whole)
			_, _ = w.Write([]byte(s))
			_ = w.Flush()
			p := newWriter(&parts)
			_, _ = p.Write([]byte(s[:cut]))
			_, _ = p.Write([]byte(s[cut:]))
			_ = p.Flush()
			if whole.String() != parts.String() {
				t.Errorf("%s of %q cut at %d: %q and %q", what, s, cut, whole.String(), parts.String())
			}
			noHidden(t, what, sgr.ReplaceAllString(strings.ReplaceAll(whole.String(), "\r\n", "\n"), ""), "\n\t")
		}
		b, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		var want, got map[string]string
		escaped := display.JSON(b)
		noHidden(t, "JSON", string(escaped), "")
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(escaped, &got); err != nil {
			t.Fatalf("JSON of %q: %v in %s", s, err, escaped)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("JSON of %q means %q", s, got)
			}
		}
	})
}
