package store

import (
	"net/netip"
	"time"

	"mvm"
	"mvm/internal/limits"
)

// Records of tenants.

type tenantRecord struct {
	ID     string       `json:"id"`
	NetID  int          `json:"net_id"`
	Subnet netip.Prefix `json:"subnet"`
	Quota  quotaRecord  `json:"quota"`
	// Ceilings is left out in records of before, whose tenants have none.
	Ceilings          *limitsRecord      `json:"ceilings,omitempty"`
	Pinned            bool               `json:"pinned,omitempty"`
	Created           time.Time          `json:"created"`
	Destroying        bool               `json:"destroying,omitempty"`
	SecretsGeneration int                `json:"secrets_generation"`
	SecretNames       []string           `json:"secret_names,omitempty"`
	Secrets           []secretInfoRecord `json:"secrets,omitempty"`
	HostServices      []int              `json:"host_services,omitempty"`
	Closed            bool               `json:"closed,omitempty"`
	Problem           string             `json:"problem,omitempty"`
}

func recordOfTenant(v mvm.Tenant) tenantRecord {
	return tenantRecord{
		ID: v.ID, NetID: v.NetID, Subnet: v.Subnet, Quota: recordOfQuota(v.Quota), Ceilings: new(recordOfLimits(v.Ceilings)),
		Pinned: v.Pinned, Created: v.Created, Destroying: v.Destroying, SecretsGeneration: v.SecretsGeneration,
		SecretNames: v.SecretNames, Secrets: each(v.Secrets, recordOfSecretInfo), HostServices: v.HostServices, Closed: v.Closed, Problem: v.Problem,
	}
}

func (r tenantRecord) noun() mvm.Tenant {
	return mvm.Tenant{
		ID: r.ID, NetID: r.NetID, Subnet: r.Subnet, Quota: r.Quota.noun(), Ceilings: ceilingsOf(r.Ceilings),
		Pinned: r.Pinned, Created: r.Created, Destroying: r.Destroying, SecretsGeneration: r.SecretsGeneration,
		SecretNames: r.SecretNames, Secrets: each(r.Secrets, secretInfoRecord.noun), HostServices: r.HostServices, Closed: r.Closed, Problem: r.Problem,
	}
}

// ceilingsOf are those of a record: none where it says nothing of them.
func ceilingsOf(r *limitsRecord) mvm.Limits {
	if r == nil {
		return limits.None()
	}
	return r.noun()
}

type quotaRecord struct {
	MaxVCPUs            int `json:"max_vcpus"`
	MaxMemMiB           int `json:"max_mem_mib"`
	MaxRunning          int `json:"max_running"`
	MaxWarm             int `json:"max_warm"`
	MaxPools            int `json:"max_pools"`
	MaxInstancesPerPool int `json:"max_instances_per_pool"`
	MaxDiskGiB          int `json:"max_disk_gib"`
}

func recordOfQuota(v mvm.Quota) quotaRecord { return quotaRecord(v) }

func (r quotaRecord) noun() mvm.Quota { return mvm.Quota(r) }

type secretInfoRecord struct {
	Name       string    `json:"name"`
	Generation int       `json:"generation"`
	SetAt      time.Time `json:"set_at"`
	Bytes      int       `json:"bytes"`
}

func recordOfSecretInfo(v mvm.SecretInfo) secretInfoRecord { return secretInfoRecord(v) }

func (r secretInfoRecord) noun() mvm.SecretInfo { return mvm.SecretInfo(r) }
