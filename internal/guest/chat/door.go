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
		if hooks[at] {
			l = &proxied{l, host}
		}
		s.doors[at] = openDoor(&bounded{Listener: l, slots: make(chan struct{}, doorConns)}, h)
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

// bounded takes at most as many connections at once as there are slots.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	b.slots <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
		return nil, err
	}
	return &slotConn{Conn: c, leave: sync.OnceFunc(func() { <-b.slots })}, nil
}

type slotConn struct {
	net.Conn
	leave func()
}

func (c *slotConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// proxied are connections from the host that begin with a PROXY header, which names the
// client; nobody here asks who that is.
type proxied struct {
	net.Listener
	host netip.Addr
}

func (p *proxied) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && a.AddrPort().Addr().Unmap() == p.host {
		return &headedConn{Conn: c}, nil
	}
	return c, nil
}

type headedConn struct {
	net.Conn
	once sync.Once
	err  error
}

func (c *headedConn) Read(p []byte) (int, error) {
	c.once.Do(func() { _, _, c.err = guestproto.ReadProxyHeader(c.Conn) })
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}
