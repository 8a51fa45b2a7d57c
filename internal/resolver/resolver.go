// Package resolver is the name server of guests: a forwarder at port 53 of each closed
// tenant's gateway address, which asks the host's name servers.
//
// Promises:
//   - Who asks is known by the network an address came from, never by what a message says.
//   - No answer names an address that the guest may not reach: a private, link-local, loopback
//     or other special one, in whatever form, that its pool's egress does not open, or one of
//     the host's own. Such an answer is empty.
//   - Guests of a pool whose egress has names are answered for these alone, and an address is
//     open for the guest before it gets the answer, for at least as long as it may keep it.
//   - What a guest can make the host do is bounded: questions a second, questions under way,
//     connections, sizes and times. Nothing runs while nobody asks.
//
// It keeps no answers: whoever asks again is answered by upstream. DNSSEC is not passed on.
package resolver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/wait"
)

// Bounds of what is done for guests at once, and of questions a second.
const (
	maxAsking       = 1024 // on the host
	maxTenantAsking = 128
	maxGuestAsking  = 32
	maxTenantConns  = 32
	maxGuestConns   = 4

	guestRate, guestBurst   = 50, 200
	tenantRate, tenantBurst = 200, 800

	// Of each guest so much is its own, and not the tenant's: guests of one tenant need not
	// trust each other, and those that take all that the tenant may leave the others this.
	ownAsking         = 2
	ownConns          = 1
	ownRate, ownBurst = 5, 20
)

// Options are what a Resolver is made of. All but HostAddrs and Count are required.
type Options struct {
	Network network.Names
	// Upstream are the host's name servers, as they are now.
	Upstream func() []netip.AddrPort
	// HostAddrs are the host's own addresses; default: those of its interfaces.
	HostAddrs func() []netip.Addr
	// Count is told how each question ended: "answered", "refused" (a name that egress does
	// not have), "dropped" (the answer named an address that is closed), "failed", "invalid" or
	// "limited".
	Count func(result string)
	Log   *slog.Logger
}

// Resolver answers guests. All methods may be called concurrently, but Follow and Applied
// only one after the other.
type Resolver struct {
	opt    Options
	up     upstream
	own    hostAddrs
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	loops  wait.Group
	asking atomic.Int32

	mu      sync.Mutex
	tenants map[string]*tenant
}

// tenant is one network with its listeners.
type tenant struct {
	id      string
	gateway netip.Addr
	guests  atomic.Pointer[map[netip.Addr]*guest]
	limit   *rate.Limiter
	asking  atomic.Int32
	conns   atomic.Int32
	again   atomic.Bool // a guest has something to be opened again

	mu     sync.Mutex
	gone   bool
	udp    *net.UDPConn
	tcp    net.Listener
	failed error // why it does not listen
}

// New is a Resolver of no tenant.
func New(opt Options) *Resolver {
	if opt.HostAddrs == nil {
		opt.HostAddrs = interfaceAddrs
	}
	if opt.Count == nil {
		opt.Count = func(string) {}
	}
	r := &Resolver{opt: opt, up: upstream{list: opt.Upstream}, own: hostAddrs{list: opt.HostAddrs}, tenants: map[string]*tenant{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close stops answering and waits for what is under way.
func (r *Resolver) Close() {
	r.cancel()
	r.mu.Lock()
	for _, t := range r.tenants {
		t.close()
	}
	r.mu.Unlock()
	r.loops.Close()
}

// Follow takes the tenants and guests of cfg, before that is applied: names that it does not
// allow any more are not opened from now on.
func (r *Resolver) Follow(cfg network.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := map[string]bool{}
	for _, of := range cfg.Tenants {
		if !of.Closed {
			continue
		}
		keep[of.ID] = true
		t := r.tenants[of.ID]
		if t == nil || t.gateway != of.Gateway() {
			t.close()
			t = &tenant{id: of.ID, gateway: of.Gateway(), limit: rate.NewLimiter(tenantRate, tenantBurst)}
			t.guests.Store(&map[netip.Addr]*guest{})
			r.tenants[of.ID] = t
		}
		t.follow(of)
	}
	for id, t := range r.tenants {
		if !keep[id] {
			t.close()
			delete(r.tenants, id)
		}
	}
}

// Serves reports whether the tenant's guests can ask, as far as is known: one that was not
// listened for yet is taken as one that will be.
func (r *Resolver) Serves(tenant string) bool {
	r.mu.Lock()
	t := r.tenants[tenant]
	r.mu.Unlock()
	return t == nil || t.why() == nil
}

// Applied listens for the tenants that nobody listens for yet, and opens again what stays
// open for guests whose egress was changed. It is called after the Config was applied, and
// again after a while where it failed. changed: Serves is another for one of them.
func (r *Resolver) Applied(ctx context.Context) (changed bool) {
	r.mu.Lock()
	all := make([]*tenant, 0, len(r.tenants))
	for _, t := range r.tenants {
		all = append(all, t)
	}
	r.mu.Unlock()
	tried := false // a port that is taken is taken for all: one try is enough
	for _, t := range all {
		was := t.why()
		if t.listens() || was != nil && tried {
			r.readmit(ctx, t)
			continue
		}
		err := r.listen(ctx, t)
		if ctx.Err() != nil {
			return changed
		}
		tried = tried || err != nil
		if err != nil && was == nil {
			r.opt.Log.Error("guests can't ask for names", "tenant", t.id, "error", err)
		}
		changed = changed || (err == nil) != (was == nil)
		r.readmit(ctx, t)
	}
	return changed
}

// listen opens the tenant's sockets and serves them.
func (r *Resolver) listen(ctx context.Context, t *tenant) error {
	udp, tcp, err := openSockets(ctx, r.opt.Network, t.id)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return err // which says nothing about the port
	}
	t.failed = err
	if err != nil {
		return err
	}
	t.udp, t.tcp = udp, tcp
	if t.gone || !r.loops.Go(func() { r.serveUDP(t, udp) }) || !r.loops.Go(func() { r.serveTCP(t, tcp) }) {
		_ = udp.Close()
		_ = tcp.Close()
	}
	return nil
}

func openSockets(ctx context.Context, n network.Names, tenant string) (*net.UDPConn, net.Listener, error) {
	udp, tcp, err := n.OpenResolver(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _, _ = udp.Close(), tcp.Close() }()
	return fromFiles(udp, tcp)
}

func fromFiles(udp, tcp *os.File) (*net.UDPConn, net.Listener, error) {
	p, err := net.FilePacketConn(udp)
	if err != nil {
		return nil, nil, mvm.Errorf(mvm.KindInternal, "take the name server's socket: %w", err)
	}
	u, ok := p.(*net.UDPConn)
	l, err := net.FileListener(tcp)
	if err != nil || !ok {
		_ = p.Close()
		return nil, nil, mvm.Errorf(mvm.KindInternal, "take the name server's sockets: %w", errors.Join(err, errors.New("they are for UDP and TCP")))
	}
	return u, l, nil
}

func (t *tenant) listens() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.udp != nil
}

func (t *tenant) why() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// close lets go of the sockets. A nil tenant has none.
func (t *tenant) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = true
	if t.udp != nil {
		_, _ = t.udp.Close(), t.tcp.Close()
	}
}

// interfaceAddrs are those of the host's interfaces.
func interfaceAddrs() (out []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(p.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out
}

// hostAddrs are the host's addresses, looked up again after a while when somebody asks.
type hostAddrs struct {
	list func() []netip.Addr

	mu   sync.Mutex
	has  map[netip.Addr]bool
	read time.Time
}

const hostAddrsFor = 5 * time.Second

func (h *hostAddrs) contain(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.has == nil || time.Since(h.read) > hostAddrsFor {
		h.has, h.read = map[netip.Addr]bool{}, time.Now()
		for _, own := range h.list() {
			h.has[own] = true
		}
	}
	return h.has[a.Unmap()]
}
