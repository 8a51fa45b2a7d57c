package gateway

import (
	"net"
	"net/netip"

	"mvm"
	"mvm/internal/guestproto"
)

// table is a Configure in force; it is never changed.
type table struct {
	routes    mvm.RoutingTable
	gateway   netip.Addr           // the host's address in the subnet
	published map[int]bool         // ports with a PROXY header from the gateway address
	http      map[int]bool         // ports that are HTTP
	auth      map[string]*verifier // of the routes that take tokens, by name
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
	t.auth = verifiers(t.routes, c.RouteKeys)
	for name, v := range t.auth {
		if len(v.keys) == 0 {
			r.log.Error("route refuses every request: none of its keys can be used", "route", name, "keys", v.auth.Keys, "problem", v.problem)
		} else if v.problem != "" {
			r.log.Warn("a key of the route can't be used", "route", name, "problem", v.problem)
		}
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
	r.roster.configure(c.TenantID, reachable(t.routes, c.Channels))
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
