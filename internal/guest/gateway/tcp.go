package gateway

import (
	"context"
	"errors"
	"io"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/table"
	"net"
	"sync"

	"mvm"
)

// copyBuffers are shared by all streams of all routers.
type copyBuffers struct{ pool sync.Pool }

const copyBuffer = 32 << 10

// Get returns a buffer of copyBuffer bytes.
func (p *copyBuffers) Get() []byte {
	if b, ok := p.pool.Get().(*[copyBuffer]byte); ok {
		return b[:]
	}
	return make([]byte, copyBuffer)
}

// Put takes a buffer that Get returned.
func (p *copyBuffers) Put(b []byte) {
	if len(b) == copyBuffer {
		p.pool.Put((*[copyBuffer]byte)(b))
	}
}

// tunnel serves a plain TCP connection to its end.
func (r *Router) tunnel(t *table.Table, c *clientConn) {
	route, ok := t.Stream(c.peer())
	if !ok {
		r.log.Debug("connection refused: no route", "port", c.port, "source", c.source)
		c.reset()
		return
	}
	l, back, err := r.reach(targetOf(route.To, ""), route.To.TargetPort)
	if err != nil {
		r.complain("connection not passed on", "route", route.Name, "error", err)
		c.reset()
		return
	}
	defer l.End()
	r.splice(l.AsStream(), c, back)
}

// targetOf is what the route's target means with the key.
func targetOf(to mvm.Target, key string) roster.Target {
	t := roster.Target{Pool: to.PoolID, Key: key}
	switch to.Selector.Kind {
	case mvm.SelectByIP:
		t.IP = to.Selector.IP
	case mvm.SelectAny:
		t.Spread, t.InTurn = true, true
	case mvm.SelectLeastConnections:
		t.Spread = true
	}
	return t
}

// reach returns a connection to an instance for the target. When one that was known
// to be awake does not take it, the host is asked once more.
func (r *Router) reach(t roster.Target, port int) (*roster.Lease, net.Conn, error) {
	for again := false; ; again = true {
		l, err := r.roster.Lease(r.ctx, t)
		if err != nil {
			return nil, nil, err
		}
		began := l.Mono()
		conn, err := l.Connect(r.ctx, port)
		if err == nil {
			return l, conn, nil
		}
		serves := l.Serves(port, began)
		final := again || serves || l.Fresh() || errors.Is(err, roster.ErrCrowded)
		if !serves && !errors.Is(err, roster.ErrCrowded) {
			l.Doubt()
		}
		l.End()
		if final {
			return nil, nil, err
		}
	}
}

// client is a connection from outside that can be cut off.
type client interface {
	net.Conn
	reset()
}

// splice copies both ways until both ends have ended, or one failed. A failure is
// passed on as one: the other end sees a reset, and not an end that may be taken for a
// whole answer.
func (r *Router) splice(s *roster.Stream, c client, back net.Conn) {
	ctx, cancel := context.WithCancel(r.ctx)
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		c.reset()
		roster.CutOff(back)
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r.oneWay(s, c, back) != nil {
			cancel()
		}
	}()
	if r.oneWay(s, back, c) != nil {
		cancel()
	}
	<-done
	if !stop() {
		<-cut // before the ends are closed in order
	}
	cancel()
	_ = c.Close()
	_ = back.Close()
}

// oneWay copies from src to dst, and passes the end on.
func (r *Router) oneWay(s *roster.Stream, dst, src net.Conn) error {
	buf := r.buffers.Get()
	defer r.buffers.Put(buf)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			s.Touch()
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			if cw, ok := dst.(interface{ CloseWrite() error }); ok {
				return cw.CloseWrite()
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}
