// Package gateway is the router that runs in a gateway VM: it takes the tenant's
// connections by the routing table, has the instance that each one needs awake, and
// passes the bytes on.
//
// What it promises:
//   - While an instance is known to be awake, requests to it cost no question to the
//     host. A Fence ends that knowledge, closes the pooled connections to the
//     instance and parks the streams: a client's next bytes have it woken first.
//   - Only what the instance's memory outlives is parked. Where the memory is gone, by
//     the host's word (Fence, or a later Boot in an answer), every connection to it ends
//     at once: a request with a 502, a stream so that its client sees an error.
//   - Requests that need the same instance at the same time are one question to the
//     host; meanwhile they are held, bounded in number and time. Past a bound, and
//     where the host refuses, HTTP clients get a 503 with Retry-After (or a 502 when
//     a retry won't help) and a plain-text reason, and TCP clients a reset.
//   - Whatever comes from outside is bounded: connections, heads, buffered bodies.
//
// A port is HTTP when a route that may match there needs the request's head, and
// plain TCP otherwise. On a port that the host publishes (Configure.ListenPorts) a
// connection from the subnet's gateway address begins with a PROXY v2 header, which
// names the real client; nobody else's header is believed.
package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/group"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

// Host is what the router asks of the host, over port 53.
type Host = roster.Host

// Options are what a Router works with. Only Host is required.
type Options struct {
	Log    *slog.Logger // nil: silent
	Host   Host
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	Now    func() time.Time
	Limits Limits
	Begin  func() error // called once, before the first connection is taken
	Busy   func() bool  // whether there was more to do than to wait since its last call; nil: by the CPU time used
}

// Router routes. Its methods may be called concurrently.
type Router struct {
	opt    Options
	lim    Limits
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	group  group.Group
	slots  chan struct{} // one per connection from outside
	bodies wire.Budget
	heads  wire.Budget

	complaints complaints

	roster  *roster.Roster
	buffers copyBuffers
	late    late
	fresh   chan struct{}    // one per connection that is to have its first answer
	crew    chan *clientConn // to goroutines that have nothing to serve
	idle    atomic.Int32     // such goroutines
	date    atomic.Pointer[dated]

	table atomic.Pointer[table.Table]

	mu     sync.Mutex // held by Configure and Close
	ports  map[netip.AddrPort]net.Listener
	opened bool

	connsMu sync.Mutex
	conns   map[*clientConn]struct{}
	sources map[netip.Addr]int
}

// New makes a Router that does nothing until Configure.
func New(opt Options) *Router {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Dial == nil {
		// No keep-alive probes: an instance that sleeps does not answer them.
		opt.Dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	if opt.Listen == nil {
		// No keep-alive probes either: a head has a deadline, and a stream has them
		// from its beginning.
		opt.Listen = (&net.ListenConfig{KeepAlive: -1}).Listen
	}
	if opt.Busy == nil {
		opt.Busy = busy()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	r := &Router{opt: opt, lim: opt.Limits.withDefaults(), log: opt.Log,
		ports: map[netip.AddrPort]net.Listener{}, conns: map[*clientConn]struct{}{}, sources: map[netip.Addr]int{}}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.slots = make(chan struct{}, r.lim.Conns)
	r.bodies.Set(r.lim.KeyBodies)
	r.heads.Set(r.lim.Heads)
	r.roster = roster.New(r.ctx, roster.Options{Log: opt.Log, Host: opt.Host, Dial: opt.Dial, Now: opt.Now, Limits: r.lim.Roster})
	r.late.any = make(chan struct{}, 1)
	r.crew = make(chan *clientConn)
	r.fresh = make(chan struct{}, maxFresh)
	r.table.Store(&table.Table{})
	return r
}

// start starts what runs from the first Configure to Close.
func (r *Router) start() {
	if r.opened {
		return
	}
	r.opened = true
	if r.opt.Begin != nil {
		if err := r.opt.Begin(); err != nil {
			r.log.Warn("gateway works with what it has", "error", err)
		}
	}
	r.group.Go(r.watchLate)
	r.roster.Start()
}

// Fence forgets that the instance is awake and returns how many requests and busy
// streams to it are under way. After it has returned nothing is sent to the
// instance before the host has been asked, but for what those requests still send.
// Where the instance's memory is gone there is no other end that they could reach: they
// are cut off, and count no more.
func (r *Router) Fence(f guestproto.Fence) int { return r.roster.Fence(f) }

// Peers lists the instances to which there are connections.
func (r *Router) Peers() guestproto.Peers { return r.roster.Peers() }

// Use returns how many requests and streams to the instance there are, quiet ones too,
// and when bytes last passed; zeroes where nothing is known of it.
func (r *Router) Use(instance string) (open int, last time.Time) { return r.roster.Use(instance) }

// Active returns how many requests are under way or held, and streams that carried
// bytes lately.
func (r *Router) Active() int { return r.roster.Active() }

// Close stops listening, ends every connection and waits for all that it started.
func (r *Router) Close() error {
	r.mu.Lock()
	r.cancel(mvm.Errorf(mvm.KindUnavailable, "the gateway is closing"))
	for at, l := range r.ports {
		_ = l.Close()
		delete(r.ports, at)
	}
	r.mu.Unlock()
	r.group.Close()
	r.closeConns()
	r.roster.Close()
	r.group.Wait()
	r.roster.Wait()
	return nil
}

func (r *Router) closeConns() {
	r.connsMu.Lock()
	conns := make([]*clientConn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.connsMu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}
