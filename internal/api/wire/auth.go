package wire

import (
	"net/netip"

	"mvm"
)

// Auth is mvm.Auth on the wire.
type Auth struct {
	Mode          mvm.AuthMode   `json:"mode"`
	Algorithm     string         `json:"algorithm,omitempty"`
	Keys          []string       `json:"keys,omitempty"`
	Claim         string         `json:"claim,omitempty"`
	Issuer        string         `json:"issuer,omitempty"`
	Audience      string         `json:"audience,omitempty"`
	LeewaySeconds int            `json:"leeway_seconds,omitempty"`
	Token         string         `json:"token,omitempty"`
	Trusted       []netip.Prefix `json:"trusted,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Auth) Of(n mvm.Auth) Auth { return Auth(n) }
func (w Auth) Noun() mvm.Auth   { return mvm.Auth(w) }
