package wire

import (
	"net/netip"

	"mvm"
)

// RoutingTable is mvm.RoutingTable on the wire.
type RoutingTable struct {
	Routes []Route `json:"routes"`
}

// Of returns the noun on the wire.
func (RoutingTable) Of(n mvm.RoutingTable) RoutingTable {
	return RoutingTable{
		Routes: each(n.Routes, Route{}.Of),
	}
}

// Noun returns the noun.
func (w RoutingTable) Noun() mvm.RoutingTable {
	return mvm.RoutingTable{
		Routes: each(w.Routes, Route.Noun),
	}
}

// Route is mvm.Route on the wire.
type Route struct {
	Name           string         `json:"name"`
	Match          MatchRule      `json:"match_rule"`
	To             Target         `json:"target"`
	Auth           *Auth          `json:"auth,omitempty"`
	TrustedProxies []netip.Prefix `json:"trusted_proxies,omitempty"`
}

// Of returns the noun on the wire.
func (Route) Of(n mvm.Route) Route {
	return Route{
		Name: n.Name, Match: MatchRule{}.Of(n.Match), To: Target{}.Of(n.To), Auth: one(n.Auth, Auth{}.Of), TrustedProxies: n.TrustedProxies,
	}
}

// Noun returns the noun.
func (w Route) Noun() mvm.Route {
	return mvm.Route{
		Name: w.Name, Match: w.Match.Noun(), To: w.To.Noun(), Auth: one(w.Auth, Auth.Noun), TrustedProxies: w.TrustedProxies,
	}
}

// MatchRule is mvm.MatchRule on the wire.
type MatchRule struct {
	Port       int    `json:"port,omitempty"`
	PathPrefix string `json:"path_prefix,omitempty"`
	SourceCIDR string `json:"source_cidr,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (MatchRule) Of(n mvm.MatchRule) MatchRule { return MatchRule(n) }
func (w MatchRule) Noun() mvm.MatchRule        { return mvm.MatchRule(w) }

// Target is mvm.Target on the wire.
type Target struct {
	PoolID     string       `json:"pool_id"`
	Selector   mvm.Selector `json:"instance_selector"`
	TargetPort int          `json:"target_port"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Target) Of(n mvm.Target) Target { return Target(n) }
func (w Target) Noun() mvm.Target     { return mvm.Target(w) }
