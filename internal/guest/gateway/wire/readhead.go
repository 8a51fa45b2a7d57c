package wire

import (
	"bytes"
	"errors"
	"net/http"
)

// Starter is told when the first bytes of a head are there.
type Starter interface{ Started() }

// ReadFrom reads the head of the next request, of at most limit bytes. The error is a
// *Refusal, or says that nothing is to be answered.
func (h *Head) ReadFrom(in *Inbox, limit int, heads *Budget, s Starter) error {
	behind := h.Req.Method == http.MethodPost // old clients send a line's end behind a body (RFC 9112, section 2.2)
	begun, seen := false, 0
	for {
		have := in.bytes()
		if behind && len(have) > 1 {
			behind = false
			if have[0] == '\r' && have[1] == '\n' {
				in.skip(2)
				continue
			}
		}
		if n := headEnd(have, seen); n > 0 {
			return h.take(in, n, limit, heads)
		}
		if len(have) > limit {
			return largeHead()
		}
		if len(have) > 0 && !begun {
			begun = true
			s.Started()
		}
		seen = len(have)
		if err := in.fill(); errors.Is(err, errNoRoom) {
			return noRoom()
		} else if err != nil {
			return err
		}
	}
}

// take takes the head, which is there.
func (h *Head) take(in *Inbox, n, limit int, heads *Budget) error {
	if n > limit {
		return largeHead()
	}
	have := in.bytes()[:n]
	if !h.charge(heads, have) {
		return noRoom()
	}
	text := string(have)
	in.skip(n)
	in.Shrink()
	if text == http2Preface {
		return ErrHTTP2
	}
	return h.parse(text)
}

func noRoom() *Refusal {
	return Refused(http.StatusServiceUnavailable, DefaultRetry, "%s", errNoRoom)
}

func largeHead() *Refusal {
	return Refused(http.StatusRequestHeaderFieldsTooLarge, 0, "the head of the request is too large")
}

// headEnd is where the head ends, 0 where it goes on. The first seen bytes were looked at
// before.
func headEnd(b []byte, seen int) int {
	for at := max(0, seen-2); ; {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return 0
		}
		at += n + 1
		switch rest := b[at:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return at + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return at + 2
		}
	}
}
