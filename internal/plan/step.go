package plan

import (
	"fmt"
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
	Restart        Kind = "restart"         // has the instance that Target names stop and start with what its pool says now, and brings it to To
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
	Was     *mvm.PoolSpec // of UpdatePool: the spec that it was planned for
	Op      mvm.OpKind
	To      mvm.State // running, warm or sleeping
	// Parked: what is restarted rests because it was idle, and does so afterwards.
	Parked bool
	// After is the end of the minimum time that the step has to wait for; Limit names it.
	After time.Time
	Limit string
	// AfterOp: an operation has the instance, and the step has to wait for its end.
	AfterOp bool
	// AwaitsBuild: it is for nothing before the pool's image is built, and not to be taken
	// while that fails.
	AwaitsBuild bool
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
	reason := s.Reason
	if s.AfterOp {
		reason += "; after its operation that is under way"
	}
	if !s.After.IsZero() {
		reason += fmt.Sprintf("; not before %s (%s)", s.After.Format(time.RFC3339), s.Limit)
	}
	return mvm.PlanStep{Action: action, Target: s.Target.String(), Reason: reason}
}

// OfRecord reports that the step changes what is asked for; the others make it so.
func (s Step) OfRecord() bool {
	switch s.Kind {
	case CreateTenant, UpdateTenant, SetSecrets, CreatePool, UpdatePool, DestroyPool:
		return true
	}
	return false
}

// Plan is what Make found.
type Plan struct {
	Steps []Step
	// Notes tell what the deployment asks for and the plan does not do, and why.
	Notes []string
	// Short are those of the notes that the quota is to blame for: what is asked for and
	// will not be as long as it stands.
	Short []string
	// Alone are the instances that keep something from being done, because a person
	// changed them.
	Alone []Alone
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
	Secrets   map[string][]byte // the tenant's, by name
	// Takes returns why an image reference can never be built on this host; nil means that
	// all can.
	Takes func(flake string) error
	// UnderWay has the instances that somebody is about to bring to another state: they
	// count as if they had it, and are not to be changed.
	UnderWay map[string]Way
	// Now ends manual overrides and minimum times.
	Now time.Time
}

// Way is where an instance is going.
type Way struct {
	To   mvm.State
	Runs bool // it runs meanwhile, whatever it ends as
}

// Options change what Make does.
type Options struct {
	// Prune destroys the pools that the deployment does not name.
	Prune bool
	// Force plans as if no person had changed any instance.
	Force bool
}
