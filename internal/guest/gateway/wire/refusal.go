package wire

import (
	"fmt"
	"strings"
)

// Refusal is why a request gets no answer from an instance, as its client is told.
type Refusal struct {
	Status int
	Retry  int // seconds for Retry-After; 0: none
	Text   string
	// challenge is what the client is to show, for WWW-Authenticate; "": nothing.
	Challenge string
}

func (e *Refusal) Error() string { return e.Text }

func Refused(status, retry int, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Retry: retry, Text: fmt.Sprintf(format, args...)}
}

// DefaultRetry is the Retry-After where the host names none.
const DefaultRetry = 5

// MaxDetail bounds what a client is shown of the host's reason.
const MaxDetail = 300

// Printable bounds s and replaces what is not printable ASCII.
func Printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}
