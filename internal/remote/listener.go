package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"mvm/internal/pki"
)

// Bounds of the answer to who is refused.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 64 << 10
	// The same of a client that is known, and was answered; for how long, Options.Linger says.
	answerBytes = 16 << 20
)

// listener gives connections whose handshake is behind them.
type listener struct {
	tcp net.Listener
	opt Options

	ready  chan *tls.Conn
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	counts   counts
	warnings *rate.Limiter

	shakes shakes

	mu    sync.Mutex
	conns map[*conn]bool // established
	byID  map[string]int // of them by identity
}

// conn is an established connection.
type conn struct {
	raw  *rawConn
	id   pki.Identity
	leaf *x509.Certificate
	from string
}

func newListener(tcp net.Listener, opt Options) *listener {
	l := &listener{tcp: tcp, opt: opt, warnings: rate.NewLimiter(1, 100), ready: make(chan *tls.Conn), conns: map[*conn]bool{}, byID: map[string]int{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Addr is the address that clients use.
func (l *listener) Addr() net.Addr { return l.tcp.Addr() }

// Accept returns the next client that has shown who it is.
func (l *listener) Accept() (net.Conn, error) {
	l.once.Do(func() { l.wg.Go(l.run) })
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends Accept and the handshakes under way, and waits for them.
func (l *listener) Close() error {
	l.cancel()
	err := l.tcp.Close()
	l.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (l *listener) run() {
	for {
		c, err := l.tcp.Accept()
		if errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
			if c != nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			l.opt.Log.Error("accept remote client", "error", err)
			select { // out of files, most likely
			case <-time.After(100 * time.Millisecond):
			case <-l.ctx.Done():
			}
			continue
		}
		h, dropped := l.shakes.begin(c)
		if dropped != nil {
			l.opt.Log.Debug("remote handshake dropped for a newer one", "from", dropped.from)
		}
		l.wg.Go(func() {
			defer close(h.done)
			defer l.shakes.finish(h)
			l.shake(h)
		})
	}
}

// shake makes the handshake and hands the connection on.
func (l *listener) shake(h *shake) {
	c := h.c
	raw := &rawConn{Conn: c, closing: l.ctx, linger: l.opt.Linger}
	ctx, cancel := context.WithTimeout(l.ctx, l.opt.Handshake)
	defer cancel()
	t := tls.Server(raw, l.opt.Keeper.ServerTLS("h2", "http/1.1"))
	if err := t.HandshakeContext(ctx); err != nil {
		l.counts.handshake.Add(1)
		l.warn("remote client refused", "from", c.RemoteAddr().String(), "error", err)
		linger(c)
		return
	}
	leaf := t.ConnectionState().PeerCertificates[0]
	id, err := pki.IdentityOf(leaf)
	if err != nil || !l.take(raw, id, leaf) {
		l.counts.connections.Add(1)
		l.warn("remote client refused: it or all have too many connections", "client", id.Short(), "from", c.RemoteAddr().String())
		_ = t.Close()
		return
	}
	l.shakes.finish(h) // it is known now, and counted as such
	select {
	case l.ready <- t:
	case <-l.ctx.Done():
		_ = t.Close()
	}
}

// warn logs of strangers, as often as is of use: they can cause as many as they like.
func (l *listener) warn(msg string, args ...any) {
	if l.warnings.Allow() {
		l.opt.Log.Warn(msg, args...)
	}
}

// take counts an established connection in until it is closed.
func (l *listener) take(raw *rawConn, id pki.Identity, leaf *x509.Certificate) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.opt.Connections || l.byID[id.URI()] >= max(1, l.opt.Connections/4) {
		return false
	}
	c := &conn{raw: raw, id: id, leaf: leaf, from: raw.RemoteAddr().String()}
	l.conns[c] = true
	l.byID[id.URI()]++
	raw.released = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
		if l.byID[id.URI()]--; l.byID[id.URI()] == 0 {
			delete(l.byID, id.URI())
		}
	})
	return true
}

// open returns the established connections.
func (l *listener) open() (all []*conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		all = append(all, c)
	}
	return slices.Clip(all)
}

// rawConn is the TCP connection below TLS.
type rawConn struct {
	net.Conn
	closing  context.Context // ends with the listener
	linger   time.Duration   // Options.Linger
	released func()          // set before the connection is handed on; nil: not counted
	ended    atomic.Bool     // the client sends no more
	once     sync.Once
}

// Read reads from the client.
func (c *rawConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

// Close closes it and gives its place back. A client that still sends gets to read the
// answer first: closed with unread bytes the connection would be reset.
func (c *rawConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		if !c.ended.Load() && c.closing.Err() == nil {
			stop := context.AfterFunc(c.closing, func() { _ = c.Conn.SetReadDeadline(time.Unix(1, 0)) })
			drop(c.Conn, c.linger, answerBytes)
			stop()
		}
		err = c.Conn.Close()
		if c.released != nil {
			c.released()
		}
	})
	return err
}

// Cut closes it at once: nothing that its client sent is read any more.
func (c *rawConn) Cut() {
	c.ended.Store(true)
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	_ = c.Close()
}

// drop ends the sending side and reads what the client still sends, until it ends,
// within bounds.
func drop(c net.Conn, limit time.Duration, most int64) {
	if tcp, ok := c.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = tcp.SetReadDeadline(time.Now().Add(limit))
		_, _ = io.CopyN(io.Discard, tcp, most)
	}
}

// linger closes a connection such that the client gets to read why: what it sent
// meanwhile is read first, or else the kernel would answer it with a reset.
func linger(c net.Conn) {
	drop(c, lingerTime, lingerBytes)
	_ = c.Close()
}
