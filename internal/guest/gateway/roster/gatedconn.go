package roster

import (
	"context"
	"errors"
	"mvm/internal/guest/gateway/sock"
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
	ro   *Roster
	w    *worker
	busy atomic.Bool  // a write is under way
	sent atomic.Int64 // roster.mono of the last write

	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc // of a wake that a write waits for
}

// errGone is the error of a connection to an instance whose memory is gone.
var errGone = errors.New("the instance has ended")

// gate makes the connection one that sends only while its instance is awake. Where the
// instance is gone already it closes it.
func (ro *Roster) gate(w *worker, conn net.Conn) (*gatedConn, error) {
	c := &gatedConn{Conn: sock.New(conn), ro: ro, w: w}
	ro.mu.Lock()
	gone := w.gone.Load()
	if !gone {
		w.conns[c] = struct{}{}
		c.probe(w.backend != nil)
	}
	ro.mu.Unlock()
	if gone {
		_ = conn.Close()
		return nil, &dialError{errGone}
	}
	return c, nil
}

// Read reads from the instance.
func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.w.gone.Load() {
		err = errGone // also for an end that came in order: what was to follow is lost
	}
	return n, err
}

// Write sends p. A fence interrupts it; it goes on when the instance is awake again.
// What was sent while a fence came in may have reached a sleeping instance, so
// then too it has the instance awake before it returns.
func (c *gatedConn) Write(p []byte) (int, error) {
	sent := 0
	err := c.whileAwake(func() error {
		n, err := c.Conn.Write(p[sent:])
		sent += n
		return err
	})
	return sent, err
}

// CloseWrite ends the sending side. To the instance that is something that was sent: it
// may have an answer to the end of its input, and is awake for it.
func (c *gatedConn) CloseWrite() error {
	cw, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	ended := false
	return c.whileAwake(func() (err error) {
		if !ended {
			err = cw.CloseWrite()
			ended = err == nil
		}
		return err
	})
}

// whileAwake sends while the instance is awake, and has it so before and after.
func (c *gatedConn) whileAwake(send func() error) error {
	c.busy.Store(true)
	defer c.busy.Store(false)
	c.sent.Store(int64(c.ro.mono()))
	select {
	case c.ro.sending <- struct{}{}:
	default:
	}
	for {
		if !c.w.awake.Load() {
			if err := c.wake(); err != nil {
				return err
			}
		}
		err := send()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = c.Conn.SetWriteDeadline(sock.NoDeadline)
		case err != nil && c.w.gone.Load():
			return errGone
		case err != nil:
			return err
		case c.w.awake.Load():
			return nil
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
	switch {
	case c.w.gone.Load():
		return errGone
	case closed:
		return net.ErrClosed
	}
	c.ro.mu.Lock()
	ip, pool := c.w.ip, c.w.pool
	c.ro.mu.Unlock()
	l, err := c.ro.Lease(ctx, Target{Pool: pool, IP: ip, id: c.w.id})
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "wake instance %s for a parked connection: %w", c.w.id, err)
	}
	defer l.End()
	if l.b.w != c.w {
		return mvm.Errorf(mvm.KindState, "the address %s of instance %s now belongs to another instance", ip, c.w.id)
	}
	return nil
}

// Cut closes the connection so that a program that is still at its other end sees that
// it was cut off.
func (c *gatedConn) Cut() {
	sock.ResetOnClose(c.Conn)
	_ = c.Close()
}

// CutOff closes any connection as Cut does.
func CutOff(c net.Conn) {
	if g, ok := c.(interface{ Cut() }); ok {
		g.Cut()
		return
	}
	sock.ResetOnClose(c)
	_ = c.Close()
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
