package peers_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

// machine is one boot of an instance, on the network.
type machine struct {
	id   string
	dead chan struct{} // closed when it has ended
	once sync.Once

	web    *httptest.Server // of a worker
	router *gateway.Router  // of a gateway

	mu     sync.Mutex
	listen map[string]string // of a gateway: port -> where it listens really
}

// die ends the machine: its connections stand still. What is closed beneath them does
// not show.
func (m *machine) die() {
	m.once.Do(func() {
		close(m.dead)
		if m.web != nil {
			m.closeWeb()
		}
		if m.router != nil {
			_ = m.router.Close()
		}
	})
}

// closeWeb closes the worker's server, and the connections that come in while it closes:
// one of them can be in the middle of a request whose client sends no more.
func (m *machine) closeWeb() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		m.web.Close()
	}()
	for {
		m.web.CloseClientConnections()
		select {
		case <-closed:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// cable is a connection to a machine.
type cable struct {
	net.Conn
	to     *machine
	closed chan struct{}
	once   sync.Once
}

// Read reads from the machine; of one that has ended nothing comes.
func (c *cable) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil || !c.over() {
		return n, err
	}
	<-c.closed
	return 0, net.ErrClosed
}

// Write sends to the machine; one that has ended swallows it.
func (c *cable) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && c.over() {
		return len(p), nil
	}
	return n, err
}

func (c *cable) over() bool {
	select {
	case <-c.closed:
		return false
	case <-c.to.dead:
		return true
	default:
		return false
	}
}

// SetLinger is as of TCP.
func (c *cable) SetLinger(sec int) error { return c.Conn.(*net.TCPConn).SetLinger(sec) }

// CloseWrite is as of TCP.
func (c *cable) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// Close closes this end.
func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// network is the machines of a host by instance.
type network struct {
	host *fake.Host

	mu       sync.Mutex
	machines map[string]*machine
	addrs    map[netip.Addr]string // -> instance
	all      []*machine
	came     map[string]int // how often a request came to a worker, by its id
}

// at has the address be the instance's.
func (n *network) at(i mvm.Instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[i.IP] = i.ID
}

// boot returns the instance's machine, made anew where there is none.
func (n *network) boot(id string, begin func(m *machine)) *machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.machines[id]
	if m == nil {
		m = &machine{id: id, dead: make(chan struct{}), listen: map[string]string{}}
		begin(m)
		n.machines[id], n.all = m, append(n.all, m)
	}
	return m
}

// end ends the instance's machine.
func (n *network) end(id string) {
	n.mu.Lock()
	m := n.machines[id]
	delete(n.machines, id)
	n.mu.Unlock()
	if m != nil {
		m.die()
	}
}

// route is the router of a gateway, which begins with its machine.
func (n *network) route(id string) fake.Router {
	return n.boot(id, func(m *machine) {
		listen := func(_ context.Context, _, addr string) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				_, port, _ := net.SplitHostPort(addr)
				m.mu.Lock()
				m.listen[port] = l.Addr().String()
				m.mu.Unlock()
				l = fromHost{l}
			}
			return l, err
		}
		m.router = gateway.New(gateway.Options{Host: gateway.HostOver(caller{n.host, id}), Dial: n.dialWorker, Listen: listen})
	}).router
}

// fromHost has connections come from the host's address in the tenant's subnet.
type fromHost struct{ net.Listener }

// Accept returns the next connection.
func (l fromHost) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hostConn{c.(*net.TCPConn)}, nil
}

type hostConn struct{ *net.TCPConn }

// RemoteAddr is the host's.
func (hostConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 240, 0, 1), Port: 1} }

// caller asks the host from a guest.
type caller struct {
	host *fake.Host
	id   string
}

// Call asks.
func (c caller) Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	return c.host.Ask(ctx, c.id, req)
}

// dialGateway connects the host to a port of a gateway.
func (n *network) dialGateway(ctx context.Context, _, addr string) (net.Conn, error) {
	m, port := n.find(addr)
	if m == nil {
		<-ctx.Done() // nobody answers
		return nil, ctx.Err()
	}
	m.mu.Lock()
	real := m.listen[strconv.Itoa(port)]
	m.mu.Unlock()
	return lay(ctx, m, real)
}

// dialWorker connects a gateway to a worker, which is there once it is asked for.
func (n *network) dialWorker(ctx context.Context, _, addr string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	id := n.addrs[at.Addr()]
	n.mu.Unlock()
	if _, up := n.host.Guest(id); !up {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	m := n.boot(id, func(m *machine) { m.web = httptest.NewServer(n.worker(m)) })
	return lay(ctx, m, m.web.Listener.Addr().String())
}

func (n *network) find(addr string) (*machine, int) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machines[n.addrs[at.Addr()]], int(at.Port())
}

func lay(ctx context.Context, m *machine, real string) (net.Conn, error) {
	if real == "" {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", real)
	if err != nil {
		select {
		case <-m.dead:
			<-ctx.Done()
			return nil, ctx.Err()
		default:
			return nil, err
		}
	}
	return &cable{Conn: c, to: m, closed: make(chan struct{})}, nil
}

// worker serves what a worker's machine does: it counts what came. What is to be held it
// holds for as long as its client or itself is there.
func (n *network) worker(m *machine) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.came[r.FormValue("id")]++
		n.mu.Unlock()
		switch r.FormValue("how") {
		case "quick":
			return
		case "events":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte("data: come\n\n"))
			_ = http.NewResponseController(w).Flush()
		case "ws":
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer func() { _ = c.CloseNow() }()
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			go func() {
				defer cancel()
				select {
				case <-m.dead:
				case <-ctx.Done():
				}
			}()
			_, _, _ = c.Read(ctx)
			return
		}
		select {
		case <-r.Context().Done():
		case <-m.dead:
			panic(http.ErrAbortHandler)
		}
	})
}
