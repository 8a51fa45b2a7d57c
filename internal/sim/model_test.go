package sim_test

import (
	"mvm"
)

// model is what must be true of the host, by what was seen and acknowledged.
type model struct {
	tenants   map[string]mvm.Tenant
	pools     map[string]mvm.Pool // by address
	instances map[string]*seen
	lastSeq   uint64
	counts    map[string]int // what is limited, as it was at the last look
	quotas    map[string]mvm.Quota
	floors    map[string]int  // what was admitted before a limit was lowered
	doomed    map[string]bool // tenants, pools and instances whose destruction was asked for, by address
	behaved   map[string]bool // instances whose guests were told to behave in some way
	held      []*held         // the states that the host may be held to, one of them for certain
	once      []*held         // states that are being applied once
}

// seen is an instance as it was at the last look.
type seen struct {
	now  mvm.Instance
	rest mvm.Instance // when it had no operation last
	// what happened since rest, by the audit log
	since map[mvm.Action]bool

	boot      string // the guest's boot id when it was open last
	bootSince map[mvm.Action]bool
	disk, mem string // the last write that was acknowledged
}

func newModel() model {
	return model{tenants: map[string]mvm.Tenant{}, pools: map[string]mvm.Pool{}, instances: map[string]*seen{},
		quotas: map[string]mvm.Quota{}, counts: map[string]int{}, floors: map[string]int{}, doomed: map[string]bool{}, behaved: map[string]bool{},
		held: []*held{{over: true}}}
}

// isDoomed reports whether the instance, its pool or its tenant is to be destroyed.
func (m *model) isDoomed(i mvm.Instance) bool {
	return m.doomed[i.Tenant] || m.doomed[i.Tenant+"/"+i.Pool] || m.doomed[i.ID]
}
