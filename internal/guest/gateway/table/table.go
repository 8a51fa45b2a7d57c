package table

import (
	"log/slog"
	"net/netip"

	"mvm"
	"mvm/internal/guestproto"
)

// Table is a Configure in force; it is never changed.
type Table struct {
	routes    mvm.RoutingTable
	gateway   netip.Addr           // the host's address in the subnet
	bind      netip.Addr           // of the ports
	published map[int]bool         // ports with a PROXY header from the gateway address
	http      map[int]bool         // ports that are HTTP
	auth      map[string]*verifier // of the routes that take tokens, by name
}

// New makes the table of a Configure. Keys that can't be used are logged.
func New(c guestproto.Configure, log *slog.Logger) (*Table, error) {
	t := &Table{published: map[int]bool{}, http: map[int]bool{}}
	if c.Routes != nil {
		t.routes = *c.Routes
	}
	if err := t.routes.Validate(); err != nil {
		return nil, err
	}
	t.auth = verifiers(t.routes, c.RouteKeys)
	for name, v := range t.auth {
		if len(v.keys) == 0 {
			log.Error("route refuses every request: none of its keys can be used", "route", name, "keys", v.auth.Keys, "problem", v.problem)
		} else if v.problem != "" {
			log.Warn("a key of the route can't be used", "route", name, "problem", v.problem)
		}
	}
	if c.Net != nil {
		t.gateway, t.bind = c.Net.Gateway.Unmap(), c.Net.Address.Addr()
	}
	if !t.bind.IsValid() {
		t.bind = netip.IPv4Unspecified()
	}
	for _, port := range c.ListenPorts {
		t.published[port] = true
	}
	for _, port := range append(t.routes.Ports(), c.ListenPorts...) {
		if port < 1 || port > 65535 {
			return nil, mvm.Errorf(mvm.KindInvalid, "port %d is not in 1..65535", port)
		}
		t.http[port] = t.routes.HTTP(port) || !t.anyRoute(port)
	}
	return t, nil
}

// Addresses are where the ports of the table are.
func (t *Table) Addresses() map[netip.AddrPort]bool {
	at := map[netip.AddrPort]bool{}
	for port := range t.http {
		at[netip.AddrPortFrom(t.bind, uint16(port))] = true
	}
	return at
}

// IsHTTP reports whether the port is HTTP.
func (t *Table) IsHTTP(port int) bool { return t.http[port] }

// Headed reports whether a connection from there to the port begins with a PROXY header of
// the host.
func (t *Table) Headed(port int, from netip.Addr) bool { return from == t.gateway && t.published[port] }

// Host is the host's address in the subnet.
func (t *Table) Host() netip.Addr { return t.gateway }

// Routing is the routing table.
func (t *Table) Routing() mvm.RoutingTable { return t.routes }

// anyRoute reports whether some route may match on the port. Where none may, the
// port speaks HTTP, so that a misconfiguration is told and not just a hang-up.
func (t *Table) anyRoute(port int) bool {
	for _, r := range t.routes.Routes {
		if r.Match.Port == 0 || r.Match.Port == port {
			return true
		}
	}
	return false
}
