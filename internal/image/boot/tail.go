package boot

import "strings"

// Tail keeps what a program wrote, bounded by maxOutput: the beginning is dropped.
type Tail struct{ b []byte }

const maxOutput = 1 << 20

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.b) }

// Last is the end of what was written, in one line, for an error.
func (t *Tail) Last() string {
	s := strings.TrimSpace(string(t.b))
	if len(s) > 600 {
		s = "…" + s[len(s)-600:]
	}
	return strings.ReplaceAll(s, "\n", "; ")
}
