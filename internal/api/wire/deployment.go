package wire

import "mvm"

// Deployment is mvm.Deployment on the wire.
type Deployment struct {
	Tenant  TenantSpec        `json:"tenant"`
	Pools   []PoolSpec        `json:"pools"`
	Secrets map[string][]byte `json:"secrets,omitempty"`
}

// Of returns the noun on the wire.
func (Deployment) Of(n mvm.Deployment) Deployment {
	return Deployment{
		Tenant: TenantSpec{}.Of(n.Tenant), Pools: each(n.Pools, PoolSpec{}.Of), Secrets: n.Secrets,
	}
}

// Noun returns the noun.
func (w Deployment) Noun() mvm.Deployment {
	return mvm.Deployment{
		Tenant: w.Tenant.Noun(), Pools: each(w.Pools, PoolSpec.Noun), Secrets: w.Secrets,
	}
}

// PlanStep is mvm.PlanStep on the wire.
type PlanStep struct {
	Action string `json:"action"`
	Target string `json:"target"`
	Reason string `json:"reason"`
}

// Of returns the noun on the wire, and Noun the noun.
func (PlanStep) Of(n mvm.PlanStep) PlanStep { return PlanStep(n) }
func (w PlanStep) Noun() mvm.PlanStep       { return mvm.PlanStep(w) }

// Progress is mvm.Progress on the wire.
type Progress struct {
	Target string `json:"target,omitempty"`
	Text   string `json:"text"`
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Progress) Of(n mvm.Progress) Progress { return Progress(n) }
func (w Progress) Noun() mvm.Progress       { return mvm.Progress(w) }
