// Package gateway is the router that runs in a gateway VM: it takes the tenant's
// connections by the routing table, has the instance that each one needs awake, and
// passes the bytes on.
//
// What it promises:
//   - While an instance is known to be awake, requests to it cost no question to the
//     host. A Fence ends that knowledge, closes the pooled connections to the
//     instance and parks the streams: a client's next bytes have it woken first.
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
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Host is what the router asks of the host, over port 53. Its methods may be called
// concurrently, and return soon after their context ends.
type Host interface {
	// Acquire has an instance awake. An error means that the host gave no answer; its
	// refusal is an AcquireResult without success.
	Acquire(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error)
	ReportActivity(ctx context.Context, r guestproto.ReportActivity) error
}

// Options are what a Router works with. Only Host is required.
type Options struct {
	Log    *slog.Logger // nil: silent
	Host   Host
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	Now    func() time.Time
	Limits Limits
}

// Router routes. Its methods may be called concurrently.
type Router struct {
	opt    Options
	lim    Limits
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	group  group
	slots  chan struct{} // one per connection from outside
	bodies budget

	complaints complaints

	roster  *roster
	proxy   *httputil.ReverseProxy
	buffers copyBuffers
	server  *http.Server
	queue   *connQueue
	serving chan struct{}  // closed when the server takes no more connections
	served  sync.WaitGroup // the server's goroutines

	table atomic.Pointer[table]

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
		opt.Listen = (&net.ListenConfig{}).Listen
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	r := &Router{opt: opt, lim: opt.Limits.withDefaults(), log: opt.Log,
		ports: map[netip.AddrPort]net.Listener{}, conns: map[*clientConn]struct{}{}, sources: map[netip.Addr]int{}, serving: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.slots = make(chan struct{}, r.lim.Conns)
	r.bodies.free.Store(int64(r.lim.KeyBodies))
	r.roster = newRoster(r.ctx, &r.group, opt, r.lim)
	r.queue = newConnQueue()
	r.proxy = r.newProxy()
	r.server = r.newServer()
	r.table.Store(&table{})
	return r
}

// table is a Configure in force; it is never changed.
type table struct {
	routes    mvm.RoutingTable
	gateway   netip.Addr   // the host's address in the subnet
	published map[int]bool // ports with a PROXY header from the gateway address
	http      map[int]bool // ports that are HTTP
}

// Configure puts the routes, identity and ports in force and returns when the
// router listens. Applying it twice is the same as once. Connections that exist go
// on, also those of ports that are gone. On an error the former table stays.
//
// With a reason other than "update" the gateway itself was away: it forgets which
// instances are awake.
func (r *Router) Configure(c guestproto.Configure) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return mvm.Errorf(mvm.KindState, "configure router: it is closed")
	}
	t := &table{published: map[int]bool{}, http: map[int]bool{}}
	if c.Routes != nil {
		t.routes = *c.Routes
	}
	if err := t.routes.Validate(); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "configure router: %w", err)
	}
	var bind netip.Addr
	if c.Net != nil {
		t.gateway, bind = c.Net.Gateway.Unmap(), c.Net.Address.Addr()
	}
	if !bind.IsValid() {
		bind = netip.IPv4Unspecified()
	}
	for _, port := range c.ListenPorts {
		t.published[port] = true
	}
	wanted := map[netip.AddrPort]bool{}
	for _, port := range append(t.routes.Ports(), c.ListenPorts...) {
		if port < 1 || port > 65535 {
			return mvm.Errorf(mvm.KindInvalid, "configure router: port %d is not in 1..65535", port)
		}
		t.http[port] = t.routes.HTTP(port) || !t.anyRoute(port)
		wanted[netip.AddrPortFrom(bind, uint16(port))] = true
	}
	return r.switchTo(t, wanted, c)
}

// anyRoute reports whether some route may match on the port. Where none may, the
// port speaks HTTP, so that a misconfiguration is told and not just a hang-up.
func (t *table) anyRoute(port int) bool {
	for _, r := range t.routes.Routes {
		if r.Match.Port == 0 || r.Match.Port == port {
			return true
		}
	}
	return false
}

// switchTo opens the ports that are new, puts the table in force and closes the
// ports that are gone.
func (r *Router) switchTo(t *table, wanted map[netip.AddrPort]bool, c guestproto.Configure) error {
	opened := map[netip.AddrPort]net.Listener{}
	for at := range wanted {
		if r.ports[at] != nil {
			continue
		}
		l, err := r.opt.Listen(r.ctx, "tcp", at.String())
		if err != nil {
			for _, l := range opened {
				_ = l.Close()
			}
			return mvm.Errorf(mvm.KindUnavailable, "listen on %s for the routing table: %w", at, err)
		}
		opened[at] = l
	}
	if c.Reason != "update" {
		r.roster.fenceAll()
	}
	r.roster.configure(c.TenantID, t.routes)
	r.table.Store(t)
	r.start()
	for at, l := range opened {
		r.ports[at] = l
		r.goAccept(l, int(at.Port()))
	}
	for at, l := range r.ports {
		if !wanted[at] {
			_ = l.Close()
			delete(r.ports, at)
		}
	}
	r.log.Info("routing table in force", "routes", len(t.routes.Routes), "ports", len(r.ports))
	return nil
}

// start starts what runs from the first Configure to Close.
func (r *Router) start() {
	if r.opened {
		return
	}
	r.opened = true
	r.group.goDo(func() {
		defer close(r.serving)
		_ = r.server.Serve(r.queue)
	})
	r.group.goDo(r.roster.report)
}

// Fence forgets that the instance is awake and returns how many requests and busy
// streams to it are under way. After it has returned nothing is sent to the
// instance before the host has been asked, but for what those requests still send.
func (r *Router) Fence(f guestproto.Fence) int { return r.roster.fence(f) }

// Active returns how many requests are under way or held, and streams that carried
// bytes lately.
func (r *Router) Active() int { return r.roster.active() }

// Close stops listening, ends every connection and waits for all that it started.
func (r *Router) Close() error {
	r.mu.Lock()
	r.cancel(mvm.Errorf(mvm.KindUnavailable, "the gateway is closing"))
	for at, l := range r.ports {
		_ = l.Close()
		delete(r.ports, at)
	}
	opened := r.opened
	r.mu.Unlock()
	_ = r.queue.Close()
	_ = r.server.Close()
	if opened {
		<-r.serving
	}
	r.group.close()
	r.closeConns()
	r.roster.close()
	r.group.wait()
	r.served.Wait()
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
