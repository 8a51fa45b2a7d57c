package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mvm/internal/guestproto"
)

// clientConn is a connection from outside, with the address of its real source.
type clientConn struct {
	net.Conn
	r    *Router
	port int
	once sync.Once

	source  netip.AddrPort
	local   bool // a program of the host, through a published port
	counted bool // in r.sources; r.connsMu

	// Of an HTTP connection; see linger.
	plain atomic.Bool // it is closed without further ado
	owed  atomic.Bool // the client has begun a request, and may not have sent all of it
	ended atomic.Bool // the client sends no more
}

// RemoteAddr returns the real source.
func (c *clientConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.source) }

// CloseWrite ends the sending side.
func (c *clientConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection and makes room for another.
func (c *clientConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.linger()
		err = c.Conn.Close()
		c.r.connsMu.Lock()
		delete(c.r.conns, c)
		c.r.uncount(c)
		c.r.connsMu.Unlock()
		<-c.r.slots
	})
	return err
}

// reset closes the connection so that its client sees that it was cut off.
func (c *clientConn) reset() {
	c.cutOnClose()
	_ = c.Close()
}

// goAccept takes connections until the listener is closed.
func (r *Router) goAccept(l net.Listener, port int) {
	if !r.group.goDo(func() { r.accept(l, port) }) {
		_ = l.Close()
	}
}

// Pauses of accept after an error such as too many open files.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
)

func (r *Router) accept(l net.Listener, port int) {
	pause := firstPause
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) || r.ctx.Err() != nil:
			if conn != nil {
				_ = conn.Close()
			}
			return
		case err != nil:
			r.log.Warn("connection not accepted", "port", port, "err", err)
			if !wait(r.ctx, pause) {
				return
			}
			pause = min(2*pause, longestPause)
			continue
		}
		pause = firstPause
		select {
		case r.slots <- struct{}{}:
		case <-r.ctx.Done():
			_ = conn.Close()
			return
		}
		c := &clientConn{Conn: conn, r: r, port: port}
		r.connsMu.Lock()
		r.conns[c] = struct{}{}
		r.connsMu.Unlock()
		if !r.group.goDo(func() { r.admit(c) }) {
			_ = c.Close()
		}
	}
}

// wait waits for d, and reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// admit finds out where the connection comes from and gives it to its protocol.
func (r *Router) admit(c *clientConn) {
	t := r.table.Load()
	if err := c.identify(t, r.lim.Head); err != nil {
		r.log.Debug("connection refused", "port", c.port, "peer", c.source, "err", err)
		c.reset()
		return
	}
	if !r.withinSource(c) {
		r.log.Debug("connection refused: too many from its source", "port", c.port, "source", c.source)
		c.reset()
		return
	}
	if t.http[c.port] {
		r.queue.push(c)
		return
	}
	c.plain.Store(true)
	r.tunnel(t, c)
}

// identify sets the source: the peer, or what the host's PROXY header names.
func (c *clientConn) identify(t *table, limit time.Duration) error {
	peer, ok := c.Conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return errors.New("peer has no TCP address")
	}
	ap := peer.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if ap.Addr() == t.gateway && t.published[c.port] {
		if err := c.Conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		var err error
		if ap, _, err = guestproto.ReadProxyHeader(c.Conn); err != nil {
			return err
		}
		if err := c.Conn.SetReadDeadline(noDeadline); err != nil {
			return err
		}
		if ap.Addr().IsLoopback() {
			// The host's own programs come from the host, as guests see it: its loopback
			// addresses would pass for a guest's own.
			ap = netip.AddrPortFrom(t.gateway, ap.Port())
			c.local = true
		}
	}
	c.source = ap
	return nil
}

// withinSource counts the connection with others of its source, and reports whether
// they are within the bound.
func (r *Router) withinSource(c *clientConn) bool {
	r.connsMu.Lock()
	defer r.connsMu.Unlock()
	if _, open := r.conns[c]; !open || r.sources[c.source.Addr()] >= r.lim.ConnsPerSource {
		return false
	}
	r.sources[c.source.Addr()]++
	c.counted = true
	return true
}

// uncount undoes withinSource. r.connsMu is held.
func (r *Router) uncount(c *clientConn) {
	if !c.counted {
		return
	}
	a := c.source.Addr()
	if r.sources[a]--; r.sources[a] == 0 {
		delete(r.sources, a)
	}
}

// connQueue is a listener of the connections that are pushed into it.
type connQueue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newConnQueue() *connQueue {
	return &connQueue{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *connQueue) push(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		_ = c.Close()
	}
}

// Accept returns the next connection.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr returns no particular address.
func (q *connQueue) Addr() net.Addr { return &net.TCPAddr{} }
