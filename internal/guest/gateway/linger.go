package gateway

import (
	"context"
	"errors"
	"io"
	"mvm/internal/guest/gateway/sock"
	"net/http"
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
	sock.ResetOnClose(c.Conn)
}

// linger ends the sending side and drops what the client sends, until it ends.
func (c *clientConn) linger() {
	if c.plain.Load() || !c.owed.Load() || c.ended.Load() || c.r.ctx.Err() != nil || c.CloseWrite() != nil {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.r.lim.Linger))
	stop := context.AfterFunc(c.r.ctx, func() { _ = c.Conn.SetReadDeadline(sock.LongAgo) })
	defer stop()
	_, _ = io.CopyN(io.Discard, c.Conn, int64(c.r.lim.LingerBytes))
}

// rest reads what is left of a small body that is there already, and reports whether
// that was all.
func (c *clientConn) rest(req *http.Request) bool {
	b := &c.body
	switch {
	case b.Complete():
		return true
	case b.Failed() != nil, req.ContentLength > smallBody, req.Header.Get("Expect") != "": // nobody has asked for it yet
		return false
	}
	c.readBy(atOnce, true)
	_, err := io.CopyN(io.Discard, b, smallBody+1)
	c.unlimited()
	return errors.Is(err, io.EOF)
}
