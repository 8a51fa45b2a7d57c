package mvm

import "encoding/json"

// ReconcileRequest asks for a host, or one tenant of it, to be made what was asked for.
type ReconcileRequest struct {
	// State is a desired state, or a signed one. Without it the host is made what is on
	// record already.
	State json.RawMessage `json:"state,omitempty"`
	// Tenant, without a State, is the only tenant to be looked at.
	Tenant string `json:"tenant,omitempty"`
	// Dry only says what would be done.
	Dry bool `json:"dry,omitempty"`
	// Keep has the agent hold the host to the state from now on, over restarts, until
	// another is kept. Without it the state is applied once.
	Keep bool `json:"keep,omitempty"`
	// Forget ends what an earlier Keep began. Nothing else changes.
	Forget bool `json:"forget,omitempty"`
	// NoWait returns when all is on record, and does not wait until it is so.
	NoWait bool `json:"no_wait,omitempty"`
	// Force takes over the instances that a person changed: they are not left alone.
	Force bool `json:"force,omitempty"`
}

// ApplyOptions say how a deployment is applied.
type ApplyOptions struct {
	// Dry only says what would be done.
	Dry bool
	// NoWait returns when all is on record, and does not wait until it is so.
	NoWait bool
	// Force takes over the tenant's instances that a person changed: they are not left alone.
	Force bool
	// Manifest is the digest of the file that the deployment was read from, for the audit
	// log: "sha256:" and 64 hex digits, or empty. It is what the client says.
	Manifest string
	// Check, where given, is asked about the tenant (nil: there is none) and the pools that
	// the deployment would change: what it returns ends the Apply before anything changes,
	// and what it allowed is not applied to others. It does not travel.
	Check func(have *Tenant, pools []Pool) error `json:"-"`
}

// MaxStateBytes bounds a desired state with its signature, as JSON.
const MaxStateBytes = 6 << 20

// Validate checks that the parts of the request go together.
func (r ReconcileRequest) Validate() error {
	switch {
	case len(r.State) > MaxStateBytes:
		return Errorf(KindInvalid, "desired state has %d bytes, more than %d", len(r.State), MaxStateBytes)
	case r.Forget && (r.Keep || r.Dry || r.Force || len(r.State) > 0 || r.Tenant != ""):
		return Errorf(KindInvalid, "forget does not go with other options")
	case r.Keep && (len(r.State) == 0 || r.Dry):
		return Errorf(KindInvalid, "keep needs a state, and does not go with a dry run")
	case r.Tenant != "" && len(r.State) > 0:
		return Errorf(KindInvalid, "a state is for the whole host, not for tenant %s", clip(r.Tenant))
	case r.Tenant != "":
		return ValidateName("tenant", r.Tenant)
	}
	return nil
}
