package publish

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// port is one listener and its connections.
type port struct {
	p            *Publisher
	log          *slog.Logger
	tenant, pool string
	addr         netip.AddrPort
	listener     *net.TCPListener
	binding      atomic.Pointer[Binding] // the newest
	slots        chan struct{}
	ctx          context.Context
	cancel       context.CancelFunc
	wg           sync.WaitGroup
}

func newPort(p *Publisher, b Binding, l *net.TCPListener) *port {
	pt := &port{p: p, tenant: b.Tenant, pool: b.Pool, listener: l, slots: make(chan struct{}, p.lim.ConnsPerBinding),
		addr: addrOfListener(l),
		log:  p.log.With("tenant", b.Tenant, "pool", b.Pool)}
	pt.binding.Store(&b)
	pt.ctx, pt.cancel = context.WithCancel(context.Background())
	pt.wg.Go(pt.accept)
	return pt
}

// stop ends the port; wg tells when all of it has ended.
func (pt *port) stop() {
	pt.cancel()
	_ = pt.listener.Close()
}

// acceptPause is waited after an error such as too many open files.
const acceptPause = 50 * time.Millisecond

func (pt *port) accept() {
	for pt.room() {
		conn, err := pt.listener.AcceptTCP()
		if err != nil {
			pt.leave()
			if pt.ctx.Err() != nil {
				return
			}
			pt.log.Warn("connection not accepted", "host", pt.addr, "error", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-pt.ctx.Done():
				return
			}
		}
		pt.wg.Go(func() {
			defer pt.leave()
			pt.serve(conn)
		})
	}
}

// room waits until one more connection is allowed; false when the port ends.
func (pt *port) room() bool {
	select {
	case pt.slots <- struct{}{}:
	case <-pt.ctx.Done():
		return false
	}
	select {
	case pt.p.slots <- struct{}{}:
		return true
	case <-pt.ctx.Done():
		<-pt.slots
		return false
	}
}

func (pt *port) leave() {
	<-pt.p.slots
	<-pt.slots
}

// serve forwards one connection to its end.
func (pt *port) serve(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	binding := pt.binding.Load()
	source, err := pt.source(client, binding.Publish)
	var gateway net.Conn
	if err == nil {
		gateway, err = pt.connect(source, client, binding)
	}
	if gateway != nil {
		defer binding.end(gateway)
	}
	if err != nil {
		_ = client.SetLinger(0) // the client sees a reset, not an empty answer
		if pt.ctx.Err() == nil {
			pt.log.Warn("connection not forwarded", "host", pt.addr, "error", err)
		}
		return
	}
	pt.splice(client, gateway)
}

// end closes a connection that Dial returned, and says so.
func (b *Binding) end(c net.Conn) {
	_ = c.Close()
	if b.Closed != nil {
		b.Closed(c)
	}
}

// source returns where the connection comes from: its peer, or whom the header of a peer
// names whose word counts. Anybody else's header is bytes like others.
func (pt *port) source(client *net.TCPConn, p mvm.Publish) (netip.AddrPort, error) {
	peer := addrOf(client.RemoteAddr())
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	trusted, err := p.ProxySources()
	if err != nil || !slices.ContainsFunc(trusted, func(c netip.Prefix) bool { return c.Contains(peer.Addr()) }) {
		return peer, err
	}
	stop := context.AfterFunc(pt.ctx, func() { _ = client.Close() })
	defer stop()
	_ = client.SetReadDeadline(time.Now().Add(pt.p.lim.Header))
	named, _, err := guestproto.ReadBalancerHeader(client)
	if err != nil {
		return peer, mvm.Errorf(mvm.KindInvalid, "read the PROXY v2 header of %s: %w", peer.Addr(), err).
			WithFix("let it send one, or remove its address from proxy-from")
	}
	_ = client.SetReadDeadline(time.Time{})
	// The balancer's own, also by the address that it has for itself: on this host that
	// would be the host's programs.
	if !named.IsValid() || named.Addr().Unmap().IsLoopback() {
		return peer, nil
	}
	return named, nil
}

// connect connects to the gateway and writes the header. It may return a connection
// with an error.
func (pt *port) connect(source netip.AddrPort, client *net.TCPConn, b *Binding) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(pt.ctx, pt.p.lim.Connect)
	defer cancel()
	gateway, err := b.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if tcp, ok := gateway.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlive(false) // a gateway that sleeps answers no probes
	}
	deadline, _ := ctx.Deadline()
	stop := context.AfterFunc(pt.ctx, func() { _ = gateway.Close() })
	defer stop()
	_ = gateway.SetWriteDeadline(deadline)
	header := guestproto.AppendProxyHeader(make([]byte, 0, 64), source, addrOf(client.LocalAddr()))
	if _, err := gateway.Write(header); err != nil {
		return gateway, mvm.Errorf(mvm.KindUnavailable, "send the client's address to the gateway: %w", err)
	}
	_ = gateway.SetWriteDeadline(time.Time{})
	return gateway, nil
}

func addrOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}

// splice copies both ways until both sides have ended, one fails, or the port ends. In
// the last two cases both sides see a reset, and not an end that may be taken for a
// whole answer.
func (pt *port) splice(client *net.TCPConn, gateway net.Conn) {
	ctx, cancel := context.WithCancel(pt.ctx)
	defer cancel()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = client.SetLinger(0)
		_ = client.Close()
		if l, ok := gateway.(interface{ SetLinger(sec int) error }); ok {
			_ = l.SetLinger(0)
		}
		_ = gateway.Close()
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if oneWay(client, gateway) != nil {
			cancel()
		}
	})
	if oneWay(gateway, client) != nil {
		cancel()
	}
	wg.Wait()
	if !stop() {
		<-closed
	}
}

// oneWay copies from src to dst, and passes the end on.
func oneWay(dst, src net.Conn) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if cw, ok := dst.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
