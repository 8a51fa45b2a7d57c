package display

import (
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// Writer writes text with lines and tabs, and everything else that is hidden as escapes.
// It is safe for concurrent use.
type Writer struct {
	mu     sync.Mutex
	w      io.Writer
	colour bool   // sequences that change colours pass
	on     bool   // a colour is on
	held   []byte // the beginning of a character or sequence
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// NewColourWriter returns a Writer that lets colours pass.
func NewColourWriter(w io.Writer) *Writer { return &Writer{w: w, colour: true} }

// Unwrap returns what the Writer writes to.
func (w *Writer) Unwrap() io.Writer { return w.w }

// Write writes p. The beginning of a character or sequence at its end waits for the rest.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.held, p...)
	whole := len(all) - w.partial(all)
	w.held = append([]byte(nil), all[whole:]...)
	if err := w.put(string(all[:whole])); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what waits, and ends a colour.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

func (w *Writer) flush() error {
	err := w.put(string(w.held))
	w.held = nil
	if w.on && err == nil {
		w.on = false
		_, err = io.WriteString(w.w, resetColour)
	}
	return err
}

// Raw writes p as it is: sequences that mvm itself makes, and output of programs that
// the user asked for as it is.
func (w *Writer) Raw(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.flush(); err != nil {
		return err
	}
	_, err := w.w.Write(p)
	return err
}

func (w *Writer) put(s string) error {
	if s == "" {
		return nil
	}
	if !w.colour {
		_, err := io.WriteString(w.w, Text(s))
		return err
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(s, "\r\n") { // which ends a line of a program as well
		text, crlf := strings.CutSuffix(line, "\r\n")
		w.on = appendColoured(&b, text, "\n\t", w.on)
		if crlf {
			b.WriteString("\r\n")
		}
	}
	_, err := io.WriteString(w.w, b.String())
	return err
}

// partial returns how many bytes at the end are the beginning of something.
func (w *Writer) partial(p []byte) int {
	if w.colour {
		if n := len(p); n > 0 && p[n-1] == '\r' {
			return 1
		}
		for n := 1; n <= min(len(p), maxColour); n++ {
			if tail := p[len(p)-n:]; tail[0] == 0x1b {
				if beginsColour(tail) {
					return n
				}
				break
			}
		}
	}
	for n := 1; n <= min(len(p), utf8.UTFMax-1); n++ {
		if tail := p[len(p)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			break
		}
	}
	return 0
}

// beginsColour reports whether bytes may become a sequence that changes colours.
func beginsColour(p []byte) bool {
	for i, c := range p[1:] {
		if i == 0 && c != '[' || i > 0 && c != ';' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
