package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// A connection that is closed while its client still sends is answered by the kernel
// with a reset, which can overtake an answer that was written before: the client sees
// that and not why it was refused. So what comes is read and dropped for a while first,
// bounded in bytes and time (Limits.LingerBytes, Limits.Linger).

// smallBody is up to which size a body of a refused request is read to keep the
// connection, where it comes at once.
const (
	smallBody = 64 << 10
	atOnce    = 20 * time.Millisecond
)

// Read reads from the client.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.owed.Load() {
		c.owed.Store(true)
	}
	if errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

// cutOnClose has the connection reset when it is closed.
func (c *clientConn) cutOnClose() {
	c.plain.Store(true)
	resetOnClose(c.Conn)
}

// linger ends the sending side and drops what the client sends, until it ends.
func (c *clientConn) linger() {
	if c.plain.Load() || !c.owed.Load() || c.ended.Load() || c.r.ctx.Err() != nil || c.CloseWrite() != nil {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.r.lim.Linger))
	stop := context.AfterFunc(c.r.ctx, func() { _ = c.Conn.SetReadDeadline(longAgo) })
	defer stop()
	_, _ = io.CopyN(io.Discard, c.Conn, int64(c.r.lim.LingerBytes))
}

// sentBody is the body of a request, and knows whether all of it was read.
type sentBody struct {
	io.ReadCloser
	whole atomic.Bool
}

// Read reads from the client.
func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole.Store(true)
	}
	return n, err
}

// follow returns the request with a body that knows whether all of it was read, and what
// is to be called when the request has been answered.
func (c *clientConn) follow(req *http.Request) (*http.Request, func()) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, func() { c.owed.Store(false) }
	}
	body := &sentBody{ReadCloser: req.Body}
	req = req.WithContext(req.Context())
	req.Body = body
	return req, func() {
		if body.whole.Load() {
			c.owed.Store(false)
		}
	}
}

// rest reads what is left of a small body that is there already, and reports whether
// that was all.
func rest(rc *http.ResponseController, req *http.Request) bool {
	body, ok := req.Body.(*sentBody)
	switch {
	case !ok, body.whole.Load():
		return true
	case req.ContentLength > smallBody, req.Header.Get("Expect") != "": // nobody has asked for it yet
		return false
	}
	_ = rc.SetReadDeadline(time.Now().Add(atOnce))
	_, err := io.CopyN(io.Discard, body, smallBody+1)
	_ = rc.SetReadDeadline(noDeadline)
	return errors.Is(err, io.EOF)
}
