package gateway

import (
	"context"

	"mvm"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// Lease is one use of an instance by a channel, until End.
type Lease = roster.Lease

// Reach has the instance of the pool awake that the key names, or any that belongs to no
// key, in the name of a channel of the gateway's pool. It waits as a request would.
func (r *Router) Reach(ctx context.Context, channel, pool, key string) (*Lease, error) {
	if !r.group.Enter() {
		return nil, mvm.Errorf(mvm.KindUnavailable, "have an instance of pool %s awake: the gateway is closing", pool)
	}
	defer r.group.Leave()
	l, err := r.roster.Lease(roster.WithChannel(ctx, channel), roster.Target{Pool: pool, Key: key})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "have an instance of pool %s awake: %w", pool, err)
	}
	return l, nil
}

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
