package wire

import (
	"net/netip"
	"time"

	"mvm"
)

// Quota is mvm.Quota on the wire.
type Quota struct {
	MaxVCPUs            int `json:"max_vcpus"`
	MaxMemMiB           int `json:"max_mem_mib"`
	MaxRunning          int `json:"max_running"`
	MaxWarm             int `json:"max_warm"`
	MaxPools            int `json:"max_pools"`
	MaxInstancesPerPool int `json:"max_instances_per_pool"`
	MaxDiskGiB          int `json:"max_disk_gib"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Quota) Of(n mvm.Quota) Quota { return Quota(n) }
func (w Quota) Noun() mvm.Quota    { return mvm.Quota(w) }

// Usage is mvm.Usage on the wire.
type Usage struct {
	VCPUs   int `json:"vcpus"`
	MemMiB  int `json:"mem_mib"`
	Running int `json:"running"`
	Warm    int `json:"warm"`
	Pools   int `json:"pools"`
	DiskMiB int `json:"disk_mib"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Usage) Of(n mvm.Usage) Usage { return Usage(n) }
func (w Usage) Noun() mvm.Usage    { return mvm.Usage(w) }

// Tenant is mvm.Tenant on the wire.
type Tenant struct {
	ID                string       `json:"id"`
	NetID             int          `json:"net_id"`
	Subnet            netip.Prefix `json:"subnet"`
	Quota             Quota        `json:"quota"`
	Ceilings          Limits       `json:"ceilings,omitzero"`
	Pinned            bool         `json:"pinned,omitempty"`
	Created           time.Time    `json:"created"`
	Destroying        bool         `json:"destroying,omitempty"`
	SecretsGeneration int          `json:"secrets_generation"`
	SecretNames       []string     `json:"secret_names,omitempty"`
	Secrets           []SecretInfo `json:"secrets,omitempty"`
	HostServices      []int        `json:"host_services,omitempty"`
	Closed            bool         `json:"closed,omitempty"`
	Problem           string       `json:"problem,omitempty"`
}

// Of returns the noun on the wire.
func (Tenant) Of(n mvm.Tenant) Tenant {
	return Tenant{
		ID: n.ID, NetID: n.NetID, Subnet: n.Subnet, Quota: Quota{}.Of(n.Quota), Ceilings: Limits{}.Of(n.Ceilings), Pinned: n.Pinned, Created: n.Created, Destroying: n.Destroying,
		SecretsGeneration: n.SecretsGeneration, SecretNames: n.SecretNames, Secrets: each(n.Secrets, SecretInfo{}.Of),
		HostServices: n.HostServices, Closed: n.Closed, Problem: n.Problem,
	}
}

// Noun returns the noun.
func (w Tenant) Noun() mvm.Tenant {
	return mvm.Tenant{
		ID: w.ID, NetID: w.NetID, Subnet: w.Subnet, Quota: w.Quota.Noun(), Ceilings: w.Ceilings.Noun(), Pinned: w.Pinned, Created: w.Created, Destroying: w.Destroying,
		SecretsGeneration: w.SecretsGeneration, SecretNames: w.SecretNames, Secrets: each(w.Secrets, SecretInfo.Noun),
		HostServices: w.HostServices, Closed: w.Closed, Problem: w.Problem,
	}
}

// TenantSpec is mvm.TenantSpec on the wire.
type TenantSpec struct {
	ID           string       `json:"id"`
	NetID        *int         `json:"net_id,omitempty"`
	Subnet       netip.Prefix `json:"subnet,omitzero"`
	Quota        *Quota       `json:"quota,omitempty"`
	Ceilings     *Limits      `json:"ceilings,omitempty"`
	Pinned       bool         `json:"pinned,omitempty"`
	HostServices []int        `json:"host_services,omitempty"`
}

// Of returns the noun on the wire.
func (TenantSpec) Of(n mvm.TenantSpec) TenantSpec {
	return TenantSpec{
		ID: n.ID, NetID: n.NetID, Subnet: n.Subnet, Quota: one(n.Quota, Quota{}.Of), Ceilings: one(n.Ceilings, Limits{}.Of), Pinned: n.Pinned, HostServices: n.HostServices,
	}
}

// Noun returns the noun.
func (w TenantSpec) Noun() mvm.TenantSpec {
	return mvm.TenantSpec{
		ID: w.ID, NetID: w.NetID, Subnet: w.Subnet, Quota: one(w.Quota, Quota.Noun), Ceilings: one(w.Ceilings, Limits.Noun), Pinned: w.Pinned, HostServices: w.HostServices,
	}
}
