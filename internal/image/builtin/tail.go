package builtin

import "strings"

// tail keeps what a program wrote, bounded by maxOutput: the beginning is dropped.
type tail struct{ b []byte }

const maxOutput = 1 << 20

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// last is the end of what was written, in one line, for an error.
func (t *tail) last() string {
	s := strings.TrimSpace(string(t.b))
	if len(s) > 600 {
		s = "…" + s[len(s)-600:]
	}
	return strings.ReplaceAll(s, "\n", "; ")
}
