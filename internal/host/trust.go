package host

import (
	"mvm/internal/agent"
	"mvm/internal/desired"
	"mvm/internal/manifest"
	"mvm/internal/trust"
)

// stateTrust is which desired states the host believes: those that a key in the
// folder of trusted keys signed, and outside production unsigned ones too.
func stateTrust(c manifest.TrustConfig) agent.StateTrust {
	return agent.StateTrust{SignedOnly: c.Production, Keys: func() (desired.Verifier, error) {
		keys, err := trust.Load(c.TrustedKeys)
		return trust.Verifier(keys), err
	}}
}
