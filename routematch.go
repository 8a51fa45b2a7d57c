package mvm

import (
	"net/netip"
	"slices"
	"strings"
)

// Match returns the route for a connection or request that came to the port from
// the source, and false when there is none. path is the request's decoded path, or
// empty for plain TCP, which no route with a path prefix matches.
//
// Of the routes that match, the one with the longest path prefix wins, then the one
// with the narrower source, then one that names the port, then the earlier one. An
// IPv4 source in IPv6 form counts as IPv4. Match is pure and makes no allocation.
func (t RoutingTable) Match(port int, path string, source netip.Addr) (Route, bool) {
	best := t.best(port, path, source)
	if best < 0 {
		return Route{}, false
	}
	return t.Routes[best], true
}

// MatchEvery is Match for a path with several readings (see package urlpath). same is false
// where they lead to different routes: no server can be asked for such a path with the
// certainty that it takes it for what was matched.
func (t RoutingTable) MatchEvery(port int, readings []string, source netip.Addr) (r Route, ok, same bool) {
	best := -1
	for n, path := range readings {
		i := t.best(port, path, source)
		if n > 0 && i != best {
			return Route{}, false, false
		}
		best = i
	}
	if best < 0 {
		return Route{}, false, true
	}
	return t.Routes[best], true, true
}

// best is the index of the route that matches best, -1 where none does.
func (t RoutingTable) best(port int, path string, source netip.Addr) int {
	best := -1
	var bestRank rank
	source = source.Unmap().WithZone("")
	for i := range t.Routes {
		r, ok := t.Routes[i].Match.rank(port, path, source)
		if ok && (best < 0 || bestRank.less(r)) {
			best, bestRank = i, r
		}
	}
	return best
}

// HTTP reports whether connections to the port are HTTP: a route that may match
// there needs the head of the request.
func (t RoutingTable) HTTP(port int) bool {
	return slices.ContainsFunc(t.Routes, func(r Route) bool {
		return (r.Match.Port == 0 || r.Match.Port == port) && r.HTTP()
	})
}

// Name reports whether some route leads to the pool.
func (t RoutingTable) Name(pool string) bool {
	return slices.ContainsFunc(t.Routes, func(r Route) bool { return r.To.PoolID == pool })
}

// LeadTo reports whether some route may lead to this instance of the pool: the key's
// own, the one with the address, or with neither any that belongs to no key.
func (t RoutingTable) LeadTo(pool, key string, ip netip.Addr) bool {
	return slices.ContainsFunc(t.Routes, func(r Route) bool {
		if r.To.PoolID != pool {
			return false
		}
		switch r.To.Selector.Kind {
		case SelectByKey:
			return key != "" && !ip.IsValid()
		case SelectByIP:
			return key == "" && ip == r.To.Selector.IP
		}
		return key == "" && !ip.IsValid()
	})
}

// Ports returns the ports that the table names, sorted.
func (t RoutingTable) Ports() []int {
	var ports []int
	for _, r := range t.Routes {
		if r.Match.Port != 0 {
			ports = append(ports, r.Match.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// rank orders rules that match the same: by prefix, then source, then port.
type rank struct{ prefix, source, port int }

func (a rank) less(b rank) bool {
	switch {
	case a.prefix != b.prefix:
		return a.prefix < b.prefix
	case a.source != b.source:
		return a.source < b.source
	}
	return a.port < b.port
}

// rank returns how closely the rule matches, and whether it does at all. "/" is a
// closer match than no prefix, and 0.0.0.0/0 closer than no source.
func (m MatchRule) rank(port int, path string, source netip.Addr) (rank, bool) {
	r := rank{source: -1}
	if m.Port != 0 {
		if m.Port != port {
			return rank{}, false
		}
		r.port = 1
	}
	if m.PathPrefix != "" {
		prefix := strings.TrimRight(m.PathPrefix, "/")
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok || path == "" || rest != "" && rest[0] != '/' {
			return rank{}, false
		}
		r.prefix = 1 + len(prefix)
	}
	if m.SourceCIDR != "" {
		p, err := netip.ParsePrefix(m.SourceCIDR)
		if err != nil || !p.Contains(source) {
			return rank{}, false
		}
		r.source = p.Bits()
	}
	return r, true
}

// normal returns the form that two rules have in common when they match the same.
func (m MatchRule) normal() MatchRule {
	if m.PathPrefix != "" {
		m.PathPrefix = strings.TrimRight(m.PathPrefix, "/") + "/"
	}
	if p, err := netip.ParsePrefix(m.SourceCIDR); err == nil {
		m.SourceCIDR = p.Masked().String()
	}
	return m
}
