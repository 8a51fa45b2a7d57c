package chat

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Bounds of what comes in from workers and platforms.
const (
	doorConns  = 256
	doorTenant = 32  // of them from one instance of the tenant
	doorClient = 128 // and from one client that the host lets in
	doorHead   = 10 * time.Second
	doorHeads  = 64 << 10
	doorLinger = 2 * time.Second
)

// door is a port of the gateway: one where workers reach platforms, or one where a platform
// delivers.
type door struct {
	server *http.Server
	done   chan struct{}
}

// openDoors opens the ports that are new, and closes those that are gone. s.mu is held.
func (s *Set) openDoors(c guestproto.Configure) error {
	bind, subnet, host := netip.IPv4Unspecified(), netip.Prefix{}, netip.Addr{}
	if c.Net != nil {
		bind, subnet, host = c.Net.Address.Addr(), c.Net.Address.Masked(), c.Net.Gateway.Unmap()
	}
	wanted := map[netip.AddrPort]http.Handler{}
	hooks := map[netip.AddrPort]bool{}
	for _, ch := range c.Channels {
		if !ch.Keeps() {
			at := netip.AddrPortFrom(bind, uint16(ch.Proxy()))
			wanted[at] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveWorker(w, r, subnet, host) })
		}
		if !ch.Polls() {
			at := netip.AddrPortFrom(bind, uint16(ch.Port))
			hooks[at] = true
			wanted[at] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.servePlatform(w, r, int(at.Port())) })
		}
	}
	for at, d := range s.doors {
		if wanted[at] == nil {
			_ = d.close()
			delete(s.doors, at)
		}
	}
	for at, h := range wanted {
		if s.doors[at] != nil {
			continue
		}
		l, err := s.opt.Listen(context.Background(), "tcp", at.String())
		if err != nil {
			return mvm.Errorf(mvm.KindUnavailable, "listen on %s for channels: %w", at, err)
		}
		b := &bounded{Listener: l, slots: make(chan struct{}, doorConns), host: host, from: map[netip.Addr]int{}, headed: hooks[at]}
		s.doors[at] = openDoor(b, h)
	}
	return nil
}

func openDoor(l net.Listener, h http.Handler) *door {
	d := &door{done: make(chan struct{}), server: &http.Server{Handler: h, ReadHeaderTimeout: doorHead, MaxHeaderBytes: doorHeads}}
	// A worker that sleeps keeps no connection: what it sends on one that was closed meanwhile
	// would be lost, and it may not send it again.
	d.server.SetKeepAlivesEnabled(false)
	go func() {
		defer close(d.done)
		_ = d.server.Serve(l)
	}()
	return d
}

// close lets requests under way end, for a moment.
func (d *door) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), doorLinger)
	defer cancel()
	err := d.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = d.server.Close()
	}
	<-d.done
	return err
}

// serveWorker serves a worker's request to a platform.
func (s *Set) serveWorker(w http.ResponseWriter, r *http.Request, subnet netip.Prefix, host netip.Addr) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if ip := from.Addr().Unmap(); err != nil || subnet.IsValid() && (!subnet.Contains(ip) || ip == host) {
		http.Error(w, "this address is for the tenant's instances", http.StatusForbidden)
		return
	}
	for _, c := range s.all() {
		if c.adapter.Proxy(w, r) {
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = w.Write([]byte(`{"ok":false,"error_code":401,"description":"Unauthorized"}`))
}

// servePlatform serves what a platform sends to the port.
func (s *Set) servePlatform(w http.ResponseWriter, r *http.Request, port int) {
	for _, c := range s.all() {
		if path, h := c.adapter.Webhook(); path != "" && path == r.URL.Path && c.is.Port == port {
			h.ServeHTTP(w, r)
			return
		}
	}
	http.NotFound(w, r)
}

// bounded takes at most as many connections at once as there are slots, and of one source
// only a part of them: more are closed at once, so that nobody keeps others out.
type bounded struct {
	net.Listener
	slots  chan struct{}
	host   netip.Addr
	headed bool // connections from the host begin with a PROXY header, which names the client

	mu   sync.Mutex
	from map[netip.Addr]int // connections, by who they are counted for
}

func (b *bounded) Accept() (net.Conn, error) {
	b.slots <- struct{}{}
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			<-b.slots
			return nil, err
		}
		s := &slotConn{Conn: c, b: b}
		ip := addressOf(c)
		if b.headed && ip == b.host {
			return &headedConn{slotConn: s}, nil
		}
		if s.countFor(ip, doorTenant) {
			return s, nil
		}
		_ = c.Close()
	}
}

func addressOf(c net.Conn) netip.Addr {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// slotConn has a slot, and is counted for its source.
type slotConn struct {
	net.Conn
	b    *bounded
	once sync.Once

	counted bool // b.mu
	ip      netip.Addr
	closed  bool
}

// countFor counts the connection for the source, and reports false where that has too many.
func (c *slotConn) countFor(ip netip.Addr, most int) bool {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.from[ip] >= most || c.closed {
		return false
	}
	c.b.from[ip]++
	c.counted, c.ip = true, ip
	return true
}

func (c *slotConn) leave() {
	<-c.b.slots
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.closed = true
	if !c.counted {
		return
	}
	if c.b.from[c.ip]--; c.b.from[c.ip] == 0 {
		delete(c.b.from, c.ip)
	}
}

func (c *slotConn) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}

// headedConn reads the PROXY header before anything else. Nobody here asks who the client is
// but to count its connections.
type headedConn struct {
	*slotConn
	head sync.Once
	err  error
}

func (c *headedConn) Read(p []byte) (int, error) {
	c.head.Do(func() {
		var client netip.AddrPort
		if client, _, c.err = guestproto.ReadProxyHeader(c.Conn); c.err == nil && !c.countFor(client.Addr().Unmap(), doorClient) {
			c.err = errors.New("the client has too many connections")
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}
