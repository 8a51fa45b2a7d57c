package mvm

import (
	"encoding/json"
	"net/netip"
	"strings"
)

// RoutingTable is a gateway's table (formats.md section 5).
type RoutingTable struct {
	Routes []Route `json:"routes" toml:"routes"`
}

// Route sends what its rule matches to its target.
type Route struct {
	Name  string    `json:"name" toml:"name"`
	Match MatchRule `json:"match_rule" toml:"match_rule"`
	To    Target    `json:"target" toml:"target"`
	// Auth is the authentication that the route asks for; nil: none, where only programs
	// of the host can reach it.
	Auth *Auth `json:"auth,omitempty" toml:"auth"`
	// TrustedProxies are the addresses of proxies whose word about their clients is passed
	// on (X-Forwarded-*, Forwarded). One of loopback means programs of the host.
	TrustedProxies []netip.Prefix `json:"trusted_proxies,omitempty" toml:"trusted_proxies"`
}

// MatchRule has at least one criterion. Without a port it matches any port that
// the table names, and with neither path prefix nor an HTTP selector it is plain TCP.
// A path prefix matches whole segments: /u and /u/ alike match /u and /u/alice, not /us.
type MatchRule struct {
	Port       int    `json:"port,omitempty" toml:"port"`
	PathPrefix string `json:"path_prefix,omitempty" toml:"path_prefix"`
	SourceCIDR string `json:"source_cidr,omitempty" toml:"source_cidr"`
}

// Target is where a route leads: an instance of the pool, chosen by the selector.
type Target struct {
	PoolID     string   `json:"pool_id" toml:"pool_id"`
	Selector   Selector `json:"instance_selector" toml:"instance_selector"`
	TargetPort int      `json:"target_port" toml:"target_port"`
}

// SelectorKind is the way to choose an instance.
type SelectorKind string

// The selectors.
const (
	SelectAny              SelectorKind = "any"
	SelectLeastConnections SelectorKind = "least_connections"
	SelectByIP             SelectorKind = "by_ip"
	SelectByKey            SelectorKind = "by_key"
)

// Selector chooses an instance: "any", "least_connections", {"by_ip":"…"} or
// {"by_key":{"from":"path|header:<name>|query:<name>|json:<pointer>"}}.
type Selector struct {
	Kind SelectorKind
	IP   netip.Addr // by_ip
	From string     // by_key
}

// MarshalJSON writes the externally tagged form.
func (s Selector) MarshalJSON() ([]byte, error) {
	switch s.Kind {
	case SelectByIP:
		return json.Marshal(map[string]netip.Addr{"by_ip": s.IP})
	case SelectByKey:
		return json.Marshal(map[string]map[string]string{"by_key": {"from": s.From}})
	case "":
		return json.Marshal(SelectAny)
	}
	return json.Marshal(s.Kind)
}

// UnmarshalJSON reads the externally tagged form, strictly.
func (s *Selector) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	got, err := SelectorFrom(v)
	if err == nil {
		*s = got
	}
	return err
}

// SelectorFrom reads a selector from its decoded JSON or TOML form.
func SelectorFrom(v any) (Selector, error) {
	bad := Errorf(KindInvalid, `instance_selector must be "any", "least_connections", {"by_ip":"…"} or {"by_key":{"from":"…"}}`)
	switch v := v.(type) {
	case string:
		if k := SelectorKind(v); k == SelectAny || k == SelectLeastConnections {
			return Selector{Kind: k}, nil
		}
	case map[string]any:
		if len(v) != 1 {
			return Selector{}, bad
		}
		if ip, ok := v["by_ip"].(string); ok {
			a, err := netip.ParseAddr(ip)
			if err != nil {
				return Selector{}, Errorf(KindInvalid, "instance_selector by_ip %q is not an address", clip(ip))
			}
			return Selector{Kind: SelectByIP, IP: a}, nil
		}
		if m, ok := v["by_key"].(map[string]any); ok && len(m) == 1 {
			if from, ok := m["from"].(string); ok {
				s := Selector{Kind: SelectByKey, From: from}
				return s, s.Validate()
			}
		}
	}
	return Selector{}, bad
}

// Validate checks the selector.
func (s Selector) Validate() error {
	switch s.Kind {
	case SelectAny, SelectLeastConnections:
		return nil
	case SelectByIP:
		if s.IP.Is4() {
			return nil
		}
		return Errorf(KindInvalid, "instance_selector by_ip needs an IPv4 address")
	case SelectByKey:
		if len(s.From) > 1024 {
			return Errorf(KindInvalid, "instance_selector by_key from has more than 1024 bytes")
		}
		kind, arg, _ := strings.Cut(s.From, ":")
		switch {
		case s.From == "path",
			(kind == "header" || kind == "query") && arg != "",
			kind == "json" && strings.HasPrefix(arg, "/"):
			return nil
		}
		return Errorf(KindInvalid, "instance_selector by_key from %q is not path, header:<name>, query:<name> or json:<pointer>", clip(s.From))
	}
	return Errorf(KindInvalid, "instance_selector kind %q is unknown", clip(string(s.Kind)))
}

// HTTP reports whether the route needs the request's HTTP head to be decided.
func (r Route) HTTP() bool {
	return r.Match.PathPrefix != "" || r.To.Selector.Kind == SelectByKey || r.AuthMode() == AuthJWT
}

// MaxRoutes bounds a routing table.
const MaxRoutes = 256

// MaxTableKeys bounds the secrets that verify tokens of a table.
const MaxTableKeys = 8

// Validate checks every route and that no two match the same.
func (t RoutingTable) Validate() error {
	if len(t.Routes) > MaxRoutes {
		return Errorf(KindInvalid, "routing table has %d routes, more than %d", len(t.Routes), MaxRoutes)
	}
	if n := len(t.AuthKeys()); n > MaxTableKeys {
		return Errorf(KindInvalid, "routing table verifies tokens with %d secrets, more than %d", n, MaxTableKeys)
	}
	names, rules := map[string]bool{}, map[MatchRule]string{} // rules in their normal form
	for _, r := range t.Routes {
		if err := r.Validate(); err != nil {
			return err
		}
		if names[r.Name] {
			return Errorf(KindInvalid, "route %q is given twice", r.Name)
		}
		names[r.Name] = true
		rule := r.Match.normal()
		if other, ok := rules[rule]; ok {
			return Errorf(KindInvalid, "routes %q and %q match the same", other, r.Name)
		}
		rules[rule] = r.Name
	}
	return nil
}

// Validate checks one route.
func (r Route) Validate() error {
	if err := ValidateName("route", r.Name); err != nil {
		return err
	}
	if err := ValidateName("pool", r.To.PoolID); err != nil {
		return Errorf(KindInvalid, "route %s: %w", r.Name, err)
	}
	m := r.Match
	switch {
	case m == (MatchRule{}):
		return Errorf(KindInvalid, "route %s has no match criterion", r.Name)
	case m.Port < 0 || m.Port > 65535:
		return Errorf(KindInvalid, "route %s: port %d is not in 1..65535", r.Name, m.Port)
	case m.PathPrefix != "" && (m.PathPrefix[0] != '/' || len(m.PathPrefix) > 1024):
		return Errorf(KindInvalid, "route %s: path_prefix must start with / and have at most 1024 bytes", r.Name)
	case r.To.TargetPort < 1 || r.To.TargetPort > 65535:
		return Errorf(KindInvalid, "route %s: target_port %d is not in 1..65535", r.Name, r.To.TargetPort)
	}
	if err := ValidateProxies(r.TrustedProxies); err != nil {
		return Errorf(KindInvalid, "route %s: %w", r.Name, err)
	}
	if m.SourceCIDR != "" {
		if _, err := netip.ParsePrefix(m.SourceCIDR); err != nil {
			return Errorf(KindInvalid, "route %s: source_cidr %q is not a CIDR", r.Name, clip(m.SourceCIDR))
		}
	}
	if r.Auth != nil {
		if err := r.Auth.Validate(); err != nil {
			return Errorf(KindInvalid, "route %s: %w", r.Name, err)
		}
		if r.Auth.Mode == AuthProxy && r.To.Selector.Kind != SelectByKey {
			return Errorf(KindInvalid, "route %s: auth mode proxy needs a route by key", r.Name).WithFix("to restrict other routes use source_cidr")
		}
	}
	return r.To.Selector.Validate()
}
