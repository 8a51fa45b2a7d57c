package plan

import (
	"time"

	"mvm"
)

// Kind is what a Step does.
type Kind string

// The kinds of steps.
const (
	CreateTenant   Kind = "create-tenant"   // Tenant
	UpdateTenant   Kind = "update-tenant"   // Update
	SetSecrets     Kind = "set-secrets"     // Secrets, all of them: what is not there goes
	DestroyPool    Kind = "destroy-pool"    // only when pruning
	CreatePool     Kind = "create-pool"     // Pool
	UpdatePool     Kind = "update-pool"     // Pool
	BuildPool      Kind = "build"           // makes the pool's image
	Operate        Kind = "operate"         // Op on the instance that Target names
	CreateInstance Kind = "create-instance" // makes an instance of the pool that Target names and brings it to To
)

// Step is one thing to do. Fields beside Kind, Target and Reason are set as the
// kind says.
type Step struct {
	Kind   Kind
	Target mvm.Address
	Reason string

	Tenant  *mvm.TenantSpec
	Update  *mvm.TenantUpdate
	Secrets map[string][]byte
	Pool    *mvm.PoolSpec
	Op      mvm.OpKind
	To      mvm.State // running, warm or sleeping
}

// Display is the step as people see it. It holds no secret.
func (s Step) Display() mvm.PlanStep {
	action := string(s.Kind)
	switch s.Kind {
	case CreateTenant, CreatePool:
		action = "create"
	case UpdateTenant, UpdatePool:
		action = "update"
	case DestroyPool:
		action = "destroy"
	case Operate:
		action = string(s.Op)
	}
	return mvm.PlanStep{Action: action, Target: s.Target.String(), Reason: s.Reason}
}

// Plan is what Make found.
type Plan struct {
	Steps []Step
	// Notes tell what the deployment asks for and the plan does not do, and why.
	Notes []string
}

// Display returns every step as people see it.
func (p Plan) Display() []mvm.PlanStep {
	out := make([]mvm.PlanStep, len(p.Steps))
	for i, s := range p.Steps {
		out[i] = s.Display()
	}
	return out
}

// Observed is what is there of one tenant.
type Observed struct {
	Tenant    *mvm.Tenant // nil: there is none
	Pools     []mvm.Pool
	Instances []mvm.Instance
	// SameSecrets reports whether the tenant has exactly these secrets; nil means no.
	SameSecrets func(map[string][]byte) bool
	// Stale reports whether a build of the pool's present reference would give
	// another image than its newest build; nil means no.
	Stale func(mvm.Pool) bool
	// Now ends manual overrides.
	Now time.Time
}

// Options change what Make does.
type Options struct {
	// Prune destroys the pools that the deployment does not name.
	Prune bool
}
