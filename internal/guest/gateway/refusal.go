package gateway

import (
	"fmt"
	"strings"
)

// refusal is why a request gets no answer from an instance, as its client is told.
type refusal struct {
	status int
	retry  int // seconds for Retry-After; 0: none
	text   string
	// challenge is what the client is to show, for WWW-Authenticate; "": nothing.
	challenge string
}

func (e *refusal) Error() string { return e.text }

func refused(status, retry int, format string, args ...any) *refusal {
	return &refusal{status: status, retry: retry, text: fmt.Sprintf(format, args...)}
}

// defaultRetry is the Retry-After where the host names none.
const defaultRetry = 5

// maxDetail bounds what a client is shown of the host's reason.
const maxDetail = 300

// printable bounds s and replaces what is not printable ASCII.
func printable(s string, limit int) string {
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
