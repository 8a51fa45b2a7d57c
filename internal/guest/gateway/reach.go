package gateway

import (
	"context"
	"errors"
	"net"

	"mvm"
	"mvm/internal/guestproto"
)

// Lease is one use of an instance by a channel, until End. While it lasts a fence of the
// instance counts it like a request under way.
type Lease struct {
	r *Router
	l *lease
	w *worker
}

type channelKey struct{}

// Reach has the instance of the pool awake that the key names, or any that belongs to no
// key, in the name of a channel of the gateway's pool. It waits as a request would.
func (r *Router) Reach(ctx context.Context, channel, pool, key string) (*Lease, error) {
	if !r.group.enter() {
		return nil, mvm.Errorf(mvm.KindUnavailable, "have an instance of pool %s awake: the gateway is closing", pool)
	}
	defer r.group.leave()
	l, err := r.roster.lease(context.WithValue(ctx, channelKey{}, channel), target{pool: pool, key: key})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "have an instance of pool %s awake: %w", pool, err)
	}
	return &Lease{r: r, l: l, w: l.b.w}, nil
}

// Instance is the instance, and Boot the number of its boot.
func (l *Lease) Instance() (id string, boot int) { return l.w.id, l.w.boot }

// Dial connects to a port of the instance. What is sent on the connection has the instance
// awake first, and it ends when the instance's memory is gone.
func (l *Lease) Dial(ctx context.Context, port int) (net.Conn, error) {
	p, began := l.l.b.lane(port), l.l.ro.mono()
	conn, _, err := l.r.roster.connect(ctx, l.l.b, p, false)
	if err != nil {
		if !l.l.serves(p, began) && !errors.Is(err, errCrowded) && ctx.Err() == nil {
			l.l.doubt()
		}
		return nil, err
	}
	return conn, nil
}

// End gives the lease back. Calling it again does nothing.
func (l *Lease) End() { l.l.end() }

// reachable are the pools to which routes or channels lead.
func reachable(routes mvm.RoutingTable, channels []guestproto.Channel) map[string]bool {
	pools := map[string]bool{}
	for _, r := range routes.Routes {
		pools[r.To.PoolID] = true
	}
	for _, c := range channels {
		pools[c.To.PoolID] = true
	}
	return pools
}
