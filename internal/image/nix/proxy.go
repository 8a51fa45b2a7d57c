package nix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/publicnet"
)

// Bounds of the way out of a cage. Its connections are files of the agent, which needs them for
// other things too.
const (
	maxConnections = 64 // that go out
	maxWaiting     = 64 // that have not said where to
	dialTimeout    = 15 * time.Second
	headTimeout    = 30 * time.Second
	maxHead        = 16 << 10
	// stall is how long a connection may carry nothing.
	stall = 2 * time.Minute
)

// proxy is the only way out of a cage: it connects to port 443 of public addresses. It
// runs outside of the cage, and serves the cage's listener.
type proxy struct {
	server http.Server
	// allow reports whether an address may be connected to; tests have others.
	allow   func(ip netip.Addr, port uint16) error
	turns   chan struct{}
	waiting atomic.Int32
	conns   sync.WaitGroup

	mu      sync.Mutex
	refused error // the last connection that was not allowed
	failed  error // the last that could not be made
}

// newProxy serves the listener until close.
func newProxy(ctx context.Context, l net.Listener, allow func(netip.Addr, uint16) error) *proxy {
	p := &proxy{allow: allow, turns: make(chan struct{}, maxConnections)}
	p.server = http.Server{ReadTimeout: headTimeout, MaxHeaderBytes: maxHead, ConnState: p.count, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		// The context of a request ends when its client has nothing more to say.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(ctx, w, r) })}
	p.server.SetKeepAlivesEnabled(false)
	p.conns.Go(func() { _ = p.server.Serve(l) })
	return p
}

// count closes connections beyond maxWaiting. Those that go out are counted by turns.
func (p *proxy) count(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if p.waiting.Add(1) > maxWaiting {
			_ = c.Close()
		}
	case http.StateHijacked, http.StateClosed:
		p.waiting.Add(-1)
	}
}

// close ends all connections. The context has to be over, or the cage closed.
func (p *proxy) close() {
	_ = p.server.Close()
	p.conns.Wait()
}

// allowPublic allows HTTPS to public addresses.
func allowPublic(ip netip.Addr, port uint16) error {
	if port != 443 {
		return fmt.Errorf("port %d is not 443", port)
	}
	if !publicnet.Has(ip) {
		return fmt.Errorf("%s is not a public address", ip)
	}
	return nil
}

func (p *proxy) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only HTTPS leaves a cage", http.StatusMethodNotAllowed)
		return
	}
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	default:
		http.Error(w, "too many connections", http.StatusTooManyRequests)
		return
	}
	out, err := p.dial(ctx, r.Host)
	if err != nil {
		p.note(err)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	defer out.Close()
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered()) // sent before the answer
	if err != nil || out.SetWriteDeadline(time.Now().Add(stall)) != nil {
		return
	}
	if _, err := out.Write(early); err != nil {
		return
	}
	if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	join(ctx, in, out)
}

// errRefused is of a connection that is not allowed.
var errRefused = errors.New("not allowed")

// dial checks the address that a name was resolved to, in the moment in which it connects.
func (p *proxy) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err == nil {
			err = p.allow(ap.Addr().Unmap(), ap.Port())
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return nil
	}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %.100q: %w", addr, err)
	}
	return c, nil
}

func (p *proxy) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, errRefused) {
		p.refused = err
	} else {
		p.failed = err
	}
}

// kindOf is what kind of error a failure of Nix is, from what it wanted of the network.
func (p *proxy) kindOf() (mvm.Kind, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.refused != nil:
		return mvm.KindPolicy, p.refused
	case p.failed != nil:
		return mvm.KindUnavailable, p.failed
	}
	return mvm.KindInvalid, nil
}

// join passes on bytes both ways until one side ends, nothing comes for too long, or the
// context is over.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { _, _ = a.Close(), b.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			if pass(way[0], way[1]) {
				return
			}
			_, _ = a.Close(), b.Close()
		})
	}
	both.Wait()
}

// pass passes on bytes one way, and reports whether that ended in order.
func pass(from, to net.Conn) bool {
	buf := make([]byte, 32<<10)
	for {
		if from.SetReadDeadline(time.Now().Add(stall)) != nil {
			return false
		}
		n, err := from.Read(buf)
		if n > 0 {
			if to.SetWriteDeadline(time.Now().Add(stall)) != nil {
				return false
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				return false
			}
		}
		if errors.Is(err, io.EOF) {
			half, ok := to.(interface{ CloseWrite() error })
			return ok && half.CloseWrite() == nil
		}
		if err != nil {
			return false
		}
	}
}
