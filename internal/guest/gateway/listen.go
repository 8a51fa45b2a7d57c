package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mvm/internal/guest/gateway/group"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guest/gateway/wire"
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

	// Of an HTTP connection.
	raw   syscall.RawConn // nil: can't be looked at
	in    wire.Inbox
	out   []byte // for heads
	head  *wire.Head
	body  wire.Body
	x     exchange
	ctx   clientCtx
	until time.Time   // of the deadline for reading, where it is known
	first bool        // the request is its first
	fresh atomic.Bool // it counts as one that had no answer yet

	mu       sync.Mutex
	word     sync.Mutex    // held while what comes before an answer is sent
	read     bool          // reading has begun
	serving  bool          // a request is under way
	watching chan struct{} // closed when nobody watches for the client's going away; nil: nobody does
	gone     bool          // it has gone away
	link     *roster.Link  // what the request is under way on
	within   context.Context
	end      context.CancelCauseFunc

	lateAt, lateSince int // late.mu

	// See linger.
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
		c.mu.Lock()
		if c.end != nil {
			c.end(net.ErrClosed)
		}
		c.mu.Unlock()
		<-c.r.slots
	})
	return err
}

// peer is the other side, as the table knows it.
func (c *clientConn) peer() table.Peer {
	return table.Peer{Port: c.port, Addr: c.source.Addr(), Local: c.local}
}

// probe has the kernel find out about a client that went away without a word.
func (c *clientConn) probe() {
	if tcp, ok := c.Conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
}

// patience sets how long sending waits for the client to take something; 0: as long as it will.
func (c *clientConn) patience(d time.Duration) {
	if s, ok := c.Conn.(*sock.Conn); ok {
		s.Wait(d)
	}
}

// reset closes the connection so that its client sees that it was cut off.
func (c *clientConn) reset() {
	c.cutOnClose()
	_ = c.Close()
}

// goAccept takes connections until the listener is closed.
func (r *Router) goAccept(l net.Listener, port int) {
	if !r.group.Go(func() { r.accept(l, port) }) {
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
			r.log.Warn("connection not accepted", "port", port, "error", err)
			if !group.Pause(r.ctx, pause) {
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
		c := &clientConn{Conn: sock.New(conn), r: r, port: port}
		if r.table.Load().IsHTTP(port) {
			c.await()
		}
		r.connsMu.Lock()
		r.conns[c] = struct{}{}
		r.connsMu.Unlock()
		select {
		case r.crew <- c:
		default:
			if !r.group.Go(func() { r.serve(c) }) {
				_ = c.Close()
				c.makeRoom()
			}
		}
	}
}

// serve serves the connection, and then others for which there is no goroutine yet: one
// that has served already has a stack as large as that takes.
func (r *Router) serve(c *clientConn) {
	growStack(6)
	for {
		r.admit(c)
		if r.idle.Add(1) > maxIdle {
			r.idle.Add(-1)
			return
		}
		select {
		case c = <-r.crew:
			r.idle.Add(-1)
		case <-r.ctx.Done():
			return
		}
		if r.ctx.Err() != nil { // Close may not have seen it
			_ = c.Close()
			c.makeRoom()
			return
		}
	}
}

// growStack has the goroutine's stack grow to what serving a request takes, while there is
// little on it that is to be moved: to grow step by step with all calls on it cost a tenth of a
// request on a new connection.
//
//go:noinline
func growStack(kib int) byte {
	var room [1 << 10]byte
	if kib > 1 {
		return growStack(kib-1) + room[kib]
	}
	return room[0]
}

// await waits until few others are to have their first answer: those get it sooner, and
// this one no later, for what is not begun needs no turn. One that takes long does not
// count for long.
func (c *clientConn) await() {
	select {
	case c.r.fresh <- struct{}{}:
		c.fresh.Store(true)
		c.r.late.add(c)
	case <-c.r.ctx.Done():
	}
}

// makeRoom makes room for the next connection that is to have its first answer.
func (c *clientConn) makeRoom() {
	if c.fresh.Swap(false) {
		<-c.r.fresh
	}
}

// spaces is the memory that HTTP connections need while they are served: for an inbox, and
// for heads that are sent.
var spaces = sync.Pool{New: func() any { return new([wire.InboxSize + outSize]byte) }}

var heads = sync.Pool{New: func() any { return new(wire.Head) }}

// admit finds out where the connection comes from and serves it by its protocol.
func (r *Router) admit(c *clientConn) {
	t := r.table.Load()
	http := t.IsHTTP(c.port)
	var from io.Reader = c.Conn
	if http {
		space, head := spaces.Get().(*[wire.InboxSize + outSize]byte), heads.Get().(*wire.Head)
		defer spaces.Put(space)
		defer heads.Put(head)
		c.in.Begin(c, space[:wire.InboxSize:wire.InboxSize], max(r.lim.HeadBytes, wire.InboxSize)+1, &r.heads)
		c.out, c.head = space[wire.InboxSize:wire.InboxSize], head
		defer c.freeHead()
		c.ctx.c = c
		c.patience(r.lim.Send)
		c.mu.Lock()
		c.read = true
		c.mu.Unlock()
		if sc, ok := c.Conn.(syscall.Conn); ok {
			c.raw, _ = sc.SyscallConn()
		}
		from = &c.in // the head of a request is behind it, most likely
	} else {
		c.plain.Store(true)
	}
	c.readBy(r.lim.Head, true)
	err := c.identify(t, from)
	c.owed.Store(c.in.Len() > 0)
	if err == nil && !r.withinSource(c) {
		err = errors.New("too many from its source")
	}
	switch {
	case err != nil:
		r.log.Debug("connection refused", "port", c.port, "peer", c.source, "error", err)
		c.reset()
	case http:
		c.serveHTTP()
	default:
		c.unlimited()
		c.probe()
		r.tunnel(t, c)
	}
	c.makeRoom()
}

// identify sets the source: the peer, or what the host's PROXY header names.
func (c *clientConn) identify(t *table.Table, from io.Reader) error {
	peer, ok := c.Conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return errors.New("peer has no TCP address")
	}
	ap := peer.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if t.Headed(c.port, ap.Addr()) {
		var err error
		if ap, _, err = guestproto.ReadProxyHeader(from); err != nil {
			return err
		}
		if ap.Addr().IsLoopback() {
			// The host's own programs come from the host, as guests see it: its loopback
			// addresses would pass for a guest's own.
			ap = netip.AddrPortFrom(t.Host(), ap.Port())
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
