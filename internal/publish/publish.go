// Package publish serves ports of gateway guests on addresses of the host: it takes
// TCP connections, has a connection to the gateway made, tells it the client's
// address in a PROXY v2 header, and passes the bytes on both ways.
//
// The whole of what is to be published goes in (Apply); what is already so stays as
// it is. A listener and its connections end when its binding is gone.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"mvm"
)

// Binding is one port of a gateway pool on an address of the host.
type Binding struct {
	Tenant, Pool string
	// Publish says where: with host port 0, a free port is chosen once and kept for
	// as long as the binding is there.
	Publish mvm.Publish
	// Bound is the address that the binding had earlier, as Apply returned it; it is
	// taken again where Publish has host port 0. Zero: none.
	Bound netip.AddrPort
	// Dial connects to the port of a gateway guest, which it may have awake first. It
	// is called concurrently and must end with its context. Where the connection is not
	// a *net.TCPConn, all bytes go through its Write, which may have the gateway awake too.
	Dial func(ctx context.Context) (net.Conn, error)
	// Closed, where given, is told of each connection that Dial returned, once, when it
	// has ended.
	Closed func(c net.Conn)
}

// name is what a binding is the same by.
type name struct {
	tenant, pool string
	publish      mvm.Publish
}

func (b Binding) name() name { return name{b.Tenant, b.Pool, b.Publish} }

// Limits bound a Publisher. A zero field means the default, which is in brackets.
type Limits struct {
	Conns           int           // connections at once, of all bindings [8192]
	ConnsPerBinding int           // of one; past either, accepting pauses [1024]
	Connect         time.Duration // for Binding.Dial and the header [90 s]
	Header          time.Duration // for the PROXY header of a client that sends one [10 s]
}

// Options are what a Publisher works with; all are optional.
type Options struct {
	Log    *slog.Logger
	Limits Limits
	// Keeper holds the listeners open beyond the Publisher's end; nil: nobody does.
	Keeper Keeper
	// Kept are listeners that a Keeper held for an earlier Publisher. The first Apply
	// takes over those that are still to be published, and ends the others.
	Kept []*net.TCPListener
}

// Publisher publishes ports. Its methods may be called concurrently.
type Publisher struct {
	log    *slog.Logger
	lim    Limits
	keeper Keeper
	slots  chan struct{} // one per connection
	mu     sync.Mutex
	ports  map[name]*port
	kept   map[netip.AddrPort]*net.TCPListener // of an earlier process, until the first Apply
	owed   []netip.AddrPort                    // what the keeper still has to forget
	closed bool
}

// New makes a Publisher that publishes nothing yet.
func New(opt Options) *Publisher {
	lim := Limits{
		Conns:           cmp.Or(opt.Limits.Conns, 8192),
		ConnsPerBinding: cmp.Or(opt.Limits.ConnsPerBinding, 1024),
		Connect:         cmp.Or(opt.Limits.Connect, 90*time.Second),
		Header:          cmp.Or(opt.Limits.Header, 10*time.Second),
	}
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{log: log, lim: lim, keeper: opt.Keeper, slots: make(chan struct{}, lim.Conns), ports: map[name]*port{},
		kept: map[netip.AddrPort]*net.TCPListener{}}
	for _, l := range opt.Kept {
		p.kept[addrOfListener(l)] = l
	}
	return p
}

// Outcome is what became of a Binding.
type Outcome struct {
	Addr netip.AddrPort // where it is served; zero with Err
	Err  error          // why it is not served
}

// Apply makes the bindings, all of them and no others, so. It returns what became of
// each, in the same order: one that can't be had keeps no other from being served. What
// is gone has ended, with its connections, when Apply returns, and not before what is
// new was tried. KindState: the publisher is closed.
func (p *Publisher) Apply(bindings []Binding) ([]Outcome, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, mvm.Errorf(mvm.KindState, "publish ports: the publisher is closed")
	}
	out := make([]Outcome, len(bindings))
	wanted := map[name]bool{}
	for n, b := range bindings {
		if wanted[b.name()] {
			out[n].Err = mvm.Errorf(mvm.KindInvalid, "publish %s of %s/%s: given twice", b.Publish, b.Tenant, b.Pool)
			continue
		}
		wanted[b.name()] = true
		out[n] = p.apply(b)
	}
	for _, pt := range p.drop(func(n name) bool { return !wanted[n] }) {
		p.owed = append(p.owed, pt.addr)
	}
	p.dropUnclaimed()
	p.forget()
	for n, b := range bindings {
		if errors.Is(out[n].Err, syscall.EADDRINUSE) { // by one that is gone now, it may be
			out[n] = p.apply(b)
		}
	}
	return out, nil
}

// apply publishes one binding, or gives a port that is there its Dial. p.mu is held.
func (p *Publisher) apply(b Binding) Outcome {
	if pt := p.ports[b.name()]; pt != nil {
		pt.binding.Store(&b)
		return Outcome{Addr: pt.addr}
	}
	l, err := p.listenKept(b)
	if err != nil {
		return Outcome{Err: mvm.Errorf(mvm.KindUnavailable, "publish %s of %s/%s: %w", b.Publish, b.Tenant, b.Pool, err).
			WithFix("%s", fixOf(err, b.Publish.Host.Port()))}
	}
	pt := newPort(p, b, l)
	p.ports[b.name()] = pt
	p.log.Info("port published", "tenant", b.Tenant, "pool", b.Pool, "host", pt.addr, "guest", b.Publish.Guest)
	return Outcome{Addr: pt.addr}
}

// fixOf is what to do about a port that can't be had.
func fixOf(err error, port uint16) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("choose a port from 1024 on, or let every user of the host have lower ones: sysctl -w net.ipv4.ip_unprivileged_port_start=%d", port)
	}
	return "free the address or choose another port"
}

// listen opens the binding's address: the one that it had, where it may be any.
func listen(b Binding) (*net.TCPListener, error) {
	at := b.Publish.Host
	if at.Port() == 0 && b.Bound.IsValid() && b.Bound.Addr() == at.Addr() {
		if l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(b.Bound)); err == nil {
			return l, nil
		}
	}
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
}

// drop ends the ports that gone names, waits for them and returns them. p.mu is held.
func (p *Publisher) drop(gone func(name) bool) (ended []*port) {
	for n, pt := range p.ports {
		if gone(n) {
			pt.stop()
			delete(p.ports, n)
			ended = append(ended, pt)
		}
	}
	for _, pt := range ended {
		pt.wg.Wait()
		p.log.Info("port no longer published", "tenant", pt.tenant, "pool", pt.pool, "host", pt.addr)
	}
	return ended
}

// Close ends every port and connection and waits for all that was started. What a Keeper
// holds stays open, for the process that comes next.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.drop(func(name) bool { return true })
	for _, l := range p.kept {
		_ = l.Close()
	}
	return nil
}
