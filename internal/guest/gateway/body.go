package gateway

import (
	"errors"
	"io"
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"os"
)

// firstBuffer is the first size of a buffered body; it doubles as bytes come.
const firstBuffer = 4 << 10

// readBody buffers the request's body within its bounds in size, time and memory of
// the gateway, to look for a key in it and to send it on. The error is a *wire.Refusal.
func (x *exchange) readBody(req *http.Request) ([]byte, error) {
	lim := x.r.lim
	x.has = true
	if req.Body == nil || req.ContentLength == 0 {
		return nil, nil
	}
	tooLarge := wire.Refused(http.StatusRequestEntityTooLarge, 0, "the body is larger than the %d bytes in which a key is looked for", lim.KeyBody)
	if req.ContentLength > int64(lim.KeyBody) {
		return nil, tooLarge
	}
	c := x.client
	c.readBy(lim.KeyBodyTime, true)
	for {
		if len(x.buffered) == cap(x.buffered) && !x.grow(lim.KeyBody+1) {
			return nil, wire.Refused(http.StatusServiceUnavailable, wire.DefaultRetry, "too many bodies are being read")
		}
		n, err := req.Body.Read(x.buffered[len(x.buffered):cap(x.buffered)])
		x.buffered = x.buffered[:len(x.buffered)+n]
		switch {
		case len(x.buffered) > lim.KeyBody:
			return nil, tooLarge
		case err == io.EOF:
			c.unlimited()
			x.r.late.add(c) // from here on the client's end can be seen
			return x.buffered, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, refusedBody(errSlowBody)
		case err != nil:
			return nil, refusedBody(err)
		}
	}
}

var errSlowBody = errors.New("the body did not come in time")

// refusedBody refuses a request whose body ended with the error.
func refusedBody(err error) *wire.Refusal {
	if errors.Is(err, errSlowBody) {
		return wire.Refused(http.StatusRequestTimeout, 0, "%s", err)
	}
	return wire.Refused(http.StatusBadRequest, 0, "the body broke off")
}

// grow makes room in the buffer, up to limit bytes; false when the budget is used up.
func (x *exchange) grow(limit int) bool {
	size := min(max(firstBuffer, 2*cap(x.buffered)), limit)
	more := size - cap(x.buffered)
	if !x.r.bodies.Take(more) {
		return false
	}
	x.budgeted += more
	x.buffered = append(make([]byte, 0, size), x.buffered...)
	return true
}
