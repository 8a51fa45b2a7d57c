package gateway

import (
	"errors"
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"strconv"
	"sync"
	"time"
)

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
	var e *wire.Refusal
	if !errors.As(err, &e) {
		e = wire.Refused(http.StatusBadGateway, 0, "the instance gave no valid answer")
	}
	c := x.client
	if !c.rest(req) {
		x.keep = false
	}
	x.begin()
	b := x.appendRefusal(c.out[:0], req, e)
	if req.Method != http.MethodHead {
		b = append(append(b, e.Text...), '\n')
	}
	if c.send(b) != nil {
		x.keep = false
	}
}

// appendRefusal appends the head of the answer.
func (x *exchange) appendRefusal(b []byte, req *http.Request, e *wire.Refusal) []byte {
	b = x.appendStatus(b, req, e.Status)
	b = wire.AppendField(b, "Content-Type", "text/plain; charset=utf-8")
	b = wire.AppendField(b, "X-Content-Type-Options", "nosniff")
	b = wire.AppendField(b, "Cache-Control", "no-store")
	if e.Challenge != "" {
		b = wire.AppendField(b, "WWW-Authenticate", e.Challenge)
	}
	if e.Retry > 0 {
		b = wire.AppendField(b, "Retry-After", strconv.Itoa(e.Retry))
	}
	b = append(b, x.r.today()...)
	return x.appendLength(b, req, int64(len(e.Text))+1)
}
