package mvm

import (
	"net/netip"
	"slices"
	"strings"
)

// AuthMode says how a route knows that a request may name its user.
type AuthMode string

// The modes of a route's authentication.
const (
	// AuthNone believes what a request says of its user: routing, no authorisation.
	AuthNone AuthMode = "none"
	// AuthJWT asks for a signed token, whose claim is the user.
	AuthJWT AuthMode = "jwt"
	// AuthProxy believes the request where it comes from a trusted proxy, and refuses others.
	AuthProxy AuthMode = "proxy"
)

// Algorithms of tokens. A route takes one; what a token says of itself chooses nothing.
const (
	AlgHS256 = "HS256"
	AlgEdDSA = "EdDSA"
)

// Bounds and defaults of a route's authentication.
const (
	MaxAuthKeys      = 4
	MaxAuthKeyBytes  = 2 << 10
	MaxAuthSources   = 32
	MaxLeewaySeconds = 300
	DefaultLeeway    = 30
	DefaultClaim     = "sub"
	DefaultToken     = "header:authorization"
)

// Auth is the authentication that a route asks for.
type Auth struct {
	Mode AuthMode `json:"mode"`

	// For jwt. Keys are names of secrets of the tenant: any of them may have signed.
	Algorithm string   `json:"algorithm,omitempty"`
	Keys      []string `json:"keys,omitempty"`
	// Claim is the one that is the user; "": DefaultClaim.
	Claim    string `json:"claim,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
	Audience string `json:"audience,omitempty"`
	// LeewaySeconds is how far clocks may differ; 0: DefaultLeeway.
	LeewaySeconds int `json:"leeway_seconds,omitempty"`
	// Token is where the token is: "header:<name>" or "cookie:<name>"; "": DefaultToken,
	// as Bearer.
	Token string `json:"token,omitempty"`

	// For proxy. Trusted are the addresses that it may have. One of loopback means
	// programs of the host.
	Trusted []netip.Prefix `json:"trusted,omitempty"`
}

// WithDefaults returns the authentication with what it leaves out.
func (a Auth) WithDefaults() Auth {
	if a.Claim == "" {
		a.Claim = DefaultClaim
	}
	if a.Token == "" {
		a.Token = DefaultToken
	}
	if a.LeewaySeconds == 0 {
		a.LeewaySeconds = DefaultLeeway
	}
	return a
}

// Validate checks the authentication by itself.
func (a Auth) Validate() error {
	jwt := a.Algorithm != "" || len(a.Keys) > 0 || a.Claim != "" || a.Issuer != "" || a.Audience != "" || a.LeewaySeconds != 0 || a.Token != ""
	switch a.Mode {
	case AuthNone:
		if jwt || len(a.Trusted) > 0 {
			return Errorf(KindInvalid, "auth mode none takes no other field")
		}
		return nil
	case AuthProxy:
		if jwt {
			return Errorf(KindInvalid, "auth mode proxy takes only the field trusted")
		}
		return a.validateTrusted()
	case AuthJWT:
		if len(a.Trusted) > 0 {
			return Errorf(KindInvalid, "auth trusted needs mode proxy")
		}
		return a.validateJWT()
	}
	return Errorf(KindInvalid, "auth mode %q is not none, jwt or proxy", clip(string(a.Mode)))
}

func (a Auth) validateTrusted() error {
	if len(a.Trusted) == 0 {
		return Errorf(KindInvalid, "auth mode proxy needs 1 to %d trusted ranges of addresses", MaxAuthSources)
	}
	return validateRanges("auth trusted", a.Trusted)
}

// ValidateProxies checks the addresses of the proxies that a route trusts.
func ValidateProxies(ranges []netip.Prefix) error { return validateRanges("trusted_proxies", ranges) }

// validateRanges checks the addresses that proxies have.
func validateRanges(what string, ranges []netip.Prefix) error {
	if len(ranges) > MaxAuthSources {
		return Errorf(KindInvalid, "%s has %d ranges of addresses, more than %d", what, len(ranges), MaxAuthSources)
	}
	for _, p := range ranges {
		if !p.IsValid() || p.Bits() == 0 {
			return Errorf(KindInvalid, "%s %s allows every address, so anyone could pose as the proxy", what, p).
				WithFix("give the proxy's own address range, such as 192.0.2.0/24")
		}
	}
	return nil
}

func (a Auth) validateJWT() error {
	if a.Algorithm != AlgHS256 && a.Algorithm != AlgEdDSA {
		return Errorf(KindInvalid, "auth algorithm %q is not %s or %s", clip(a.Algorithm), AlgHS256, AlgEdDSA)
	}
	if len(a.Keys) == 0 || len(a.Keys) > MaxAuthKeys {
		return Errorf(KindInvalid, "auth mode jwt needs 1 to %d keys, by the names of their secrets", MaxAuthKeys)
	}
	for _, k := range a.Keys {
		if err := ValidateSecretName(k); err != nil {
			return Errorf(KindInvalid, "auth keys: %w", err)
		}
	}
	for _, s := range []string{a.Claim, a.Issuer, a.Audience} {
		if len(s) > 256 {
			return Errorf(KindInvalid, "auth claim, issuer and audience have at most 256 bytes")
		}
	}
	if a.LeewaySeconds < 0 || a.LeewaySeconds > MaxLeewaySeconds {
		return Errorf(KindInvalid, "auth leeway_seconds %d is not in 0..%d", a.LeewaySeconds, MaxLeewaySeconds)
	}
	if kind, name, _ := strings.Cut(a.Token, ":"); a.Token != "" && (kind != "header" && kind != "cookie" || !isToken(name)) {
		return Errorf(KindInvalid, "auth token %q is not header:<name> or cookie:<name>", clip(a.Token))
	}
	return nil
}

// isToken reports whether s can be the name of a header or cookie.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// AuthMode is the mode of the route's authentication: none where it names none.
func (r Route) AuthMode() AuthMode {
	if r.Auth == nil {
		return AuthNone
	}
	return r.Auth.Mode
}

// Guards reports whether some route asks for authentication.
func (t RoutingTable) Guards() bool {
	return slices.ContainsFunc(t.Routes, func(r Route) bool { return r.AuthMode() != AuthNone })
}

// AuthKeys are the names of the secrets that verify tokens of the table's routes, sorted.
func (t RoutingTable) AuthKeys() []string {
	var out []string
	for _, r := range t.Routes {
		if r.Auth != nil {
			out = append(out, r.Auth.Keys...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Exposed are the routes that choose by key without a word on authentication, on a port
// that others than programs of the host can reach; by the name of the route, with the
// published address.
func (s PoolSpec) Exposed() map[string]Publish {
	out := map[string]Publish{}
	if s.Routes == nil {
		return out
	}
	for _, r := range s.Routes.Routes {
		for _, p := range s.Publish {
			open := !p.Host.Addr().Unmap().IsLoopback() && (r.Match.Port == 0 || r.Match.Port == p.Guest)
			if _, known := out[r.Name]; open && !known && r.To.Selector.Kind == SelectByKey && r.Auth == nil {
				out[r.Name] = p
			}
		}
	}
	return out
}

// CheckExposed refuses routes by key that say nothing of authentication where strangers
// reach them. was is the pool's spec before, nil for a new pool: what it has already is
// left, and told as a warning.
func (s PoolSpec) CheckExposed(was *PoolSpec) error {
	before := map[string]Publish{}
	if was != nil {
		before = was.Exposed()
	}
	exposed := s.Exposed()
	for _, r := range routesOf(s) {
		p, is := exposed[r.Name]
		if _, had := before[r.Name]; is && !had {
			return Errorf(KindInvalid, "pool %s: route %s lets anyone who reaches %s name any user", s.ID, r.Name, p.Host).
				WithFix(`give the route auth with mode "jwt" or "proxy", publish on 127.0.0.1, or set auth mode "none" to allow it`)
		}
	}
	return nil
}

func routesOf(s PoolSpec) []Route {
	if s.Routes == nil {
		return nil
	}
	return s.Routes.Routes
}

// Warnings says what of a spec is in force and should not stay. secrets are the names of
// those that the tenant has.
func (s PoolSpec) Warnings(secrets []string) (out []string) {
	for _, c := range s.Channels {
		for _, name := range c.Secrets() {
			if !slices.Contains(secrets, name) {
				out = append(out, "channel "+c.Name+" needs the secret "+name+", which the tenant does not have")
			}
		}
	}
	exposed := s.Exposed()
	for _, r := range routesOf(s) {
		if p, is := exposed[r.Name]; is {
			out = append(out, "route "+r.Name+" lets anyone who reaches "+p.Host.String()+
				" name any user: give it auth, or set auth mode \"none\" to allow it")
		}
		if r.Auth == nil {
			continue
		}
		for _, k := range r.Auth.Keys {
			if !slices.Contains(secrets, k) {
				out = append(out, "route "+r.Name+" verifies tokens with the secret "+k+", which the tenant does not have")
			}
		}
	}
	return out
}
