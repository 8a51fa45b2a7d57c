package wire

import (
	"time"

	"mvm"
)

// SecretInfo is mvm.SecretInfo on the wire.
type SecretInfo struct {
	Name       string    `json:"name"`
	Generation int       `json:"generation"`
	SetAt      time.Time `json:"set_at"`
	Bytes      int       `json:"bytes"`
}

// Of returns the noun on the wire, and Noun the noun.
func (SecretInfo) Of(n mvm.SecretInfo) SecretInfo { return SecretInfo(n) }
func (w SecretInfo) Noun() mvm.SecretInfo         { return mvm.SecretInfo(w) }
