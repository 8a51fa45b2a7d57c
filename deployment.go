package mvm

// Deployment is a tenant with its pools and secrets, as a manifest or a template
// asks for it. Applying it twice changes nothing.
type Deployment struct {
	Tenant TenantSpec `json:"tenant"`
	Pools  []PoolSpec `json:"pools"`
	// Secrets are the values; nil means: leave the tenant's secrets alone.
	Secrets map[string][]byte `json:"secrets,omitempty"`
}

// MaxSecretsBytes bounds the names and values of one tenant's secrets together,
// so that they fit into one frame of the guest channel.
const MaxSecretsBytes = 128 << 10

// MaxSecretBytes bounds one secret's value.
const MaxSecretBytes = 64 << 10

// ValidateSecrets checks names and sizes.
func ValidateSecrets(secrets map[string][]byte) error {
	total := 0
	for name, v := range secrets {
		if err := ValidateSecretName(name); err != nil {
			return err
		}
		if len(v) > MaxSecretBytes {
			return Errorf(KindInvalid, "secret %s has %d bytes, more than %d", name, len(v), MaxSecretBytes)
		}
		total += len(name) + len(v)
	}
	if total > MaxSecretsBytes {
		return Errorf(KindInvalid, "secrets have %d bytes together, more than %d", total, MaxSecretsBytes)
	}
	return nil
}

// Validate checks the whole deployment before anything is changed.
func (d Deployment) Validate() error {
	if err := d.Tenant.Validate(); err != nil {
		return err
	}
	if err := ValidateSecrets(d.Secrets); err != nil {
		return err
	}
	pools := map[string]bool{}
	for _, p := range d.Pools {
		if err := p.Validate(); err != nil {
			return err
		}
		if pools[p.ID] {
			return Errorf(KindInvalid, "pool %q is given twice", p.ID)
		}
		pools[p.ID] = true
	}
	for _, p := range d.Pools {
		for _, c := range p.Channels {
			if !pools[c.To.PoolID] {
				return Errorf(KindInvalid, "pool %s: channel %s leads to pool %q, which is not in the deployment", p.ID, c.Name, c.To.PoolID)
			}
		}
		if p.Routes == nil {
			continue
		}
		for _, r := range p.Routes.Routes {
			if !pools[r.To.PoolID] {
				return Errorf(KindInvalid, "pool %s: route %s leads to pool %q, which is not in the deployment", p.ID, r.Name, r.To.PoolID)
			}
		}
	}
	return nil
}

// PlanStep is one thing that applying a deployment would do, and why.
type PlanStep struct {
	Action string `json:"action"` // "create", "update", "build", "start", "wake", "sleep", "stop", "destroy", "set-secrets", …
	Target string `json:"target"` // an address
	Reason string `json:"reason"`
}

// Progress is a line about long work for a person who waits.
type Progress struct {
	Target string `json:"target,omitempty"`
	Text   string `json:"text"`
	// Done and Total are bytes or items, 0 when unknown.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
}
