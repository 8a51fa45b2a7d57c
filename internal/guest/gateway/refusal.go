package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"mvm/internal/guestproto"
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

// notInTime is told to who waited for the longest time allowed.
const notInTime = "the instance did not wake in time"

// maxDetail bounds what a client is shown of the host's reason.
const maxDetail = 300

// What a client is told where the host has no instance for it. Why is for the tenant: the
// gateway's log and the host's events have it.
const (
	notNow     = "no instance is available now"
	notAtAll   = "no instance is available"
	tooManyNew = "too many new users come from your address"
	failing    = "the instance runs, but its service does not come up"
)

// hostRefusal is what a client is told when the host did not have an instance awake.
// Where a retry may help it is a 503 with the time that the host names, or a 429 where
// the client's address asked for too much; else a 502: the client did nothing wrong, and
// trying again changes nothing.
func hostRefusal(res guestproto.AcquireResult) *refusal {
	switch retry := min(res.RetrySecs, 3600); {
	case res.Limited:
		return tooMany(max(retry, 1))
	case res.Failing:
		return refused(http.StatusServiceUnavailable, max(retry, 1), failing)
	case retry > 0:
		return refused(http.StatusServiceUnavailable, retry, notNow)
	}
	return refused(http.StatusBadGateway, 0, notAtAll)
}

func tooMany(retry int) *refusal { return refused(http.StatusTooManyRequests, retry, tooManyNew) }

// detailOf is the host's reason, for the log.
func detailOf(res guestproto.AcquireResult) string {
	if res.Detail == nil || *res.Detail == "" {
		return "no reason given"
	}
	return printable(*res.Detail, maxDetail)
}

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

// complaints are log lines that outsiders can cause: one a second, and a count.
type complaints struct {
	mu      sync.Mutex
	last    time.Time
	dropped int
}

// complain logs the line, unless one was logged in the last second.
func (r *Router) complain(msg string, args ...any) {
	c := &r.complaints
	c.mu.Lock()
	now := time.Now()
	if now.Sub(c.last) < time.Second {
		c.dropped++
		c.mu.Unlock()
		return
	}
	dropped := c.dropped
	c.last, c.dropped = now, 0
	c.mu.Unlock()
	r.log.Info(msg, append(args, "unlogged", dropped)...)
}

// refuse answers with the refusal in err, or with a 502. It does not wait for the rest
// of the request: where that is not there yet the connection ends with the answer, and
// lingers until the client has read it.
func (x *exchange) refuse(req *http.Request, err error) {
	var e *refusal
	if !errors.As(err, &e) {
		e = refused(http.StatusBadGateway, 0, "the instance gave no valid answer")
	}
	c := x.client
	if !c.rest(req) {
		x.keep = false
	}
	x.begin()
	b := x.appendRefusal(c.out[:0], req, e)
	if req.Method != http.MethodHead {
		b = append(append(b, e.text...), '\n')
	}
	if c.send(b) != nil {
		x.keep = false
	}
}

// appendRefusal appends the head of the answer.
func (x *exchange) appendRefusal(b []byte, req *http.Request, e *refusal) []byte {
	b = x.appendStatus(b, req, e.status)
	b = appendField(b, "Content-Type", "text/plain; charset=utf-8")
	b = appendField(b, "X-Content-Type-Options", "nosniff")
	b = appendField(b, "Cache-Control", "no-store")
	if e.challenge != "" {
		b = appendField(b, "WWW-Authenticate", e.challenge)
	}
	if e.retry > 0 {
		b = appendField(b, "Retry-After", strconv.Itoa(e.retry))
	}
	b = append(b, x.r.today()...)
	return x.appendLength(b, req, int64(len(e.text))+1)
}
