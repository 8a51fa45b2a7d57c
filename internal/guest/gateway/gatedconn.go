package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"mvm"
)

// gatedConn is a connection to an instance that sends nothing while the instance
// may sleep: a write first has it awake.
type gatedConn struct {
	net.Conn
	ro   *roster
	w    *worker
	busy atomic.Bool // a write is under way

	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc // of a wake that a write waits for
}

// Write sends p. A fence interrupts it; it goes on when the instance is awake again.
// What was sent while a fence came in may have reached a sleeping instance, so
// then too it has the instance awake before it returns.
func (c *gatedConn) Write(p []byte) (int, error) {
	c.busy.Store(true)
	defer c.busy.Store(false)
	sent := 0
	for {
		if !c.w.awake.Load() {
			if err := c.wake(); err != nil {
				return sent, err
			}
		}
		n, err := c.Conn.Write(p[sent:])
		sent += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = c.Conn.SetWriteDeadline(noDeadline)
		case err != nil:
			return sent, err
		case c.w.awake.Load():
			return sent, nil
		}
	}
}

// wake asks the host to have the instance awake, within the holding bounds.
func (c *gatedConn) wake() error {
	ctx, cancel := context.WithCancel(c.ro.ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	c.ro.mu.Lock()
	ip, pool := c.w.ip, c.w.pool
	c.ro.mu.Unlock()
	l, err := c.ro.lease(ctx, target{pool: pool, ip: ip})
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "wake instance %s for a parked connection: %w", c.w.id, err)
	}
	defer l.end()
	if l.b.w != c.w {
		return mvm.Errorf(mvm.KindState, "the address %s of instance %s is another's now", ip, c.w.id)
	}
	return nil
}

// CloseWrite ends the sending side. The instance sees it when it is awake.
func (c *gatedConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection and ends a wake that a write waits for.
func (c *gatedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	c.ro.mu.Lock()
	delete(c.w.conns, c)
	c.ro.mu.Unlock()
	return c.Conn.Close()
}
