package gateway

import (
	"net"
	"net/netip"

	"mvm"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guestproto"
)

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
	t, err := table.New(c, r.log)
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "configure router: %w", err)
	}
	return r.switchTo(t, t.Addresses(), c)
}

// switchTo opens the ports that are new, puts the table in force and closes the
// ports that are gone.
func (r *Router) switchTo(t *table.Table, wanted map[netip.AddrPort]bool, c guestproto.Configure) error {
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
		r.roster.FenceAll()
	}
	r.roster.Configure(c.TenantID, reachable(t.Routing(), c.Channels))
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
	r.log.Info("routing table in force", "routes", len(t.Routing().Routes), "ports", len(r.ports))
	return nil
}
