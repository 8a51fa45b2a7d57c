package mvm

import (
	"net/netip"
	"time"
)

// Quota limits what a tenant may have. All seven are enforced before a thing is
// made (formats.md section 2).
type Quota struct {
	MaxVCPUs            int `json:"max_vcpus"`
	MaxMemMiB           int `json:"max_mem_mib"`
	MaxRunning          int `json:"max_running"`
	MaxWarm             int `json:"max_warm"`
	MaxPools            int `json:"max_pools"`
	MaxInstancesPerPool int `json:"max_instances_per_pool"`
	MaxDiskGiB          int `json:"max_disk_gib"`
}

// DefaultQuota is the quota of a tenant that names none.
func DefaultQuota() Quota {
	return Quota{MaxVCPUs: 16, MaxMemMiB: 32768, MaxRunning: 8, MaxWarm: 4, MaxPools: 4, MaxInstancesPerPool: 16, MaxDiskGiB: 100}
}

// Validate checks that every limit is at least 1 (max_warm at least 0).
func (q Quota) Validate() error {
	for _, f := range []struct {
		name     string
		val, min int
	}{
		{"max_vcpus", q.MaxVCPUs, 1}, {"max_mem_mib", q.MaxMemMiB, 1}, {"max_running", q.MaxRunning, 1},
		{"max_warm", q.MaxWarm, 0}, {"max_pools", q.MaxPools, 1},
		{"max_instances_per_pool", q.MaxInstancesPerPool, 1}, {"max_disk_gib", q.MaxDiskGiB, 1},
	} {
		if f.val < f.min {
			return Errorf(KindInvalid, "quota %s is %d, must be at least %d", f.name, f.val, f.min)
		}
	}
	return nil
}

// Usage is what counts against a Quota. VCPUs and MemMiB count instances that
// hold them (running and warm); DiskGiB is rounded up and counts data disks of
// every instance that exists.
type Usage struct {
	VCPUs   int `json:"vcpus"`
	MemMiB  int `json:"mem_mib"`
	Running int `json:"running"`
	Warm    int `json:"warm"`
	Pools   int `json:"pools"`
	DiskMiB int `json:"disk_mib"`
}

// Tenant owns pools, a network and secrets. Tenants do not trust each other.
type Tenant struct {
	ID     string       `json:"id"`
	NetID  int          `json:"net_id"` // 0..4095, never changes
	Subnet netip.Prefix `json:"subnet"`
	Quota  Quota        `json:"quota"`
	// Ceilings are the highest limits that the tenant's pools may ask for; 0: the default of
	// the limit. Package limits says what is in force. Tenants of before have none: the highest
	// value of each limit.
	Ceilings Limits    `json:"ceilings,omitzero"`
	Pinned   bool      `json:"pinned,omitempty"`
	Created  time.Time `json:"created"`
	// Destroying: the tenant is on its way out, with all that it has.
	Destroying bool `json:"destroying,omitempty"`
	// SecretsGeneration counts changes of the tenant's secrets, from 0 (none).
	SecretsGeneration int `json:"secrets_generation"`
	// SecretNames are the names of the tenant's secrets; values are never shown.
	SecretNames []string `json:"secret_names,omitempty"`
	// Secrets tells of each when it was set; those set before mvm noted it are not in it.
	Secrets []SecretInfo `json:"secrets,omitempty"`
	// HostServices are addresses on the host that this tenant's guests may reach,
	// beside what mvm itself serves, as "tcp:PORT" on the tenant's gateway address.
	HostServices []int `json:"host_services,omitempty"`
	// Closed: guests reach private networks, and a user's instance its neighbours, only
	// where Egress and Peers of their pool say so. Tenants of before have it off.
	Closed bool `json:"closed,omitempty"`
	// Problem says what keeps the tenant from the desired state that the host is held to;
	// empty: nothing does.
	Problem string `json:"problem,omitempty"`
}

// TenantSpec asks for a tenant. NetID nil and an invalid Subnet mean: choose.
type TenantSpec struct {
	ID           string       `json:"id"`
	NetID        *int         `json:"net_id,omitempty"`
	Subnet       netip.Prefix `json:"subnet,omitzero"`
	Quota        *Quota       `json:"quota,omitempty"`    // nil: keep, or the default
	Ceilings     *Limits      `json:"ceilings,omitempty"` // nil: keep, or the default
	Pinned       bool         `json:"pinned,omitempty"`
	HostServices []int        `json:"host_services,omitempty"`
}

// Validate checks the spec by itself; overlaps are the agent's to check.
func (s TenantSpec) Validate() error {
	if err := ValidateName("tenant", s.ID); err != nil {
		return err
	}
	if s.NetID != nil && (*s.NetID < 0 || *s.NetID > MaxNetID) {
		return Errorf(KindInvalid, "tenant %s: net_id %d is not in 0..%d", s.ID, *s.NetID, MaxNetID)
	}
	if s.Subnet.IsValid() {
		if err := ValidateSubnet(s.Subnet); err != nil {
			return err
		}
	}
	for _, p := range s.HostServices {
		if p < 1 || p > 65535 {
			return Errorf(KindInvalid, "tenant %s: host service port %d is not in 1..65535", s.ID, p)
		}
	}
	if s.Quota != nil {
		return s.Quota.Validate()
	}
	return nil
}
