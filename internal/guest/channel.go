package guest

import (
	"context"
	"errors"
	"net"
	"sync"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

// Channel is the guest's side of the channel over a virtio-serial port. It gives
// the agent the host's connections and is the Host for requests to it. A host that
// connects anew, after a restart or a wake, ends all streams of the one before.
type Channel struct {
	server *mux.Server

	mu      sync.Mutex
	session *mux.Session  // nil while no host is there
	changed chan struct{} // closed and replaced when session changes
}

var _ Host = (*Channel)(nil)

// NewChannel makes the channel over an open port, which it owns.
func NewChannel(server *mux.Server) *Channel {
	return &Channel{server: server, changed: make(chan struct{})}
}

// Serve has the agent answer the host, session after session, until ctx ends or
// the port fails.
func (c *Channel) Serve(ctx context.Context, a *Agent) error {
	c.server.OnGreeting(a.Resume)
	for {
		session, err := c.server.Accept(ctx)
		if err != nil {
			return err
		}
		c.set(session)
		stop := context.AfterFunc(ctx, func() { session.Close() })
		_ = a.Serve(ctx, sessionAccepter{session})
		stop()
		c.set(nil)
		_ = session.Close()
	}
}

// Close closes the port.
func (c *Channel) Close() error { return c.server.Close() }

func (c *Channel) set(s *mux.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// Call asks the host over a stream of its own. While no host is there it waits for
// one; a stream that was cut by a host's restart is not tried again here, because
// the caller knows what may be repeated.
func (c *Channel) Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	session, err := c.wait(ctx)
	if err != nil {
		return guestproto.HostResponse{}, err
	}
	conn, err := session.Open(ctx, guestproto.HostPort)
	if err != nil {
		return guestproto.HostResponse{}, err
	}
	defer conn.Close()
	return guestproto.HostCall(ctx, conn, req)
}

func (c *Channel) wait(ctx context.Context) (*mux.Session, error) {
	for {
		c.mu.Lock()
		session, changed := c.session, c.changed
		c.mu.Unlock()
		if session != nil {
			return session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, mvm.Errorf(mvm.KindUnavailable, "ask host: no host is connected: %w", ctx.Err())
		}
	}
}

// sessionAccepter gives the streams to port 52 and closes all others.
type sessionAccepter struct{ session *mux.Session }

func (s sessionAccepter) Accept() (net.Conn, error) {
	for {
		conn, port, err := s.session.Accept()
		if err != nil || port == guestproto.GuestPort {
			return conn, err
		}
		conn.Close()
	}
}

// Dialer is a Host that makes a connection for each request, as over vsock.
type Dialer func(ctx context.Context) (net.Conn, error)

var _ Host = Dialer(nil)

// Call asks the host over a connection of its own.
func (d Dialer) Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	conn, err := d(ctx)
	if err != nil {
		return guestproto.HostResponse{}, mvm.Errorf(mvm.KindUnavailable, "ask host: %w", err)
	}
	defer conn.Close()
	return guestproto.HostCall(ctx, conn, req)
}

// ServeListener has the agent answer the host's connections on a listener, as over
// vsock, until ctx ends or Accept fails.
func ServeListener(ctx context.Context, l net.Listener, a *Agent) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := a.Serve(ctx, l)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
