// Package desired is the desired state of a whole host as a document: the JSON form
// of formats.md section 7, its strict decoder, its checks, and the way to and from
// the nouns. It is pure: bytes and values in, values out.
//
// A document says everything about the host's tenants and pools: what it leaves out
// has the default, not the value that the host has at present. Secrets are not in
// it, only a keyed hash that says which ones it was made with.
package desired

import (
	"net/netip"

	"mvm"
)

// SchemaVersion is the version of the documents that this package reads and writes.
const SchemaVersion = 1

// Bounds of a document.
const (
	MaxBytes   = 4 << 20 // of its JSON
	MaxDepth   = 16      // of nested objects and lists; the deepest of ours has 11
	MaxEntries = 4096    // of one list or map
)

// Document is the desired state of one host.
type Document struct {
	SchemaVersion int      `json:"schema_version" need:"1"`
	NodeID        string   `json:"node_id" need:"1"`
	Tenants       []Tenant `json:"tenants" need:"1"`
	// PruneUnknownTenants asks for tenants that the document doesn't name to be destroyed.
	PruneUnknownTenants bool `json:"prune_unknown_tenants"`
	// PruneUnknownPools asks for pools of its tenants that it doesn't name to be destroyed.
	PruneUnknownPools bool `json:"prune_unknown_pools"`
}

// Tenant is one tenant of a Document with its pools.
type Tenant struct {
	TenantID string    `json:"tenant_id" need:"1"`
	Network  Network   `json:"network,omitzero"`
	Quotas   mvm.Quota `json:"quotas"`
	// Ceilings that are left out stay as they are; a new tenant has the defaults.
	Ceilings *mvm.Limits `json:"ceilings,omitempty"`
	// SecretsHash says which secrets the document was made with; empty: any.
	SecretsHash  string `json:"secrets_hash,omitempty"`
	Pinned       bool   `json:"pinned,omitempty"`
	HostServices []int  `json:"host_services,omitempty"`
	Pools        []Pool `json:"pools" need:"1"`
}

// Network is a tenant's network; what it leaves out the agent chooses once and keeps.
type Network struct {
	TenantNetID *int         `json:"tenant_net_id,omitempty"`
	IPv4Subnet  netip.Prefix `json:"ipv4_subnet,omitzero"`
}

// Pool is one pool of a Tenant.
type Pool struct {
	PoolID        string            `json:"pool_id" need:"1"`
	FlakeRef      string            `json:"flake_ref" need:"1"`
	Profile       string            `json:"profile"`
	Role          mvm.Role          `json:"role"`
	Resources     mvm.Resources     `json:"instance_resources"`
	DesiredCounts mvm.Counts        `json:"desired_counts"`
	RuntimePolicy mvm.RuntimePolicy `json:"runtime_policy"`
	// SeccompPolicy is the system calls that the VMM is left with: Baseline.
	SeccompPolicy string `json:"seccomp_policy"`
	// SnapshotCompression is CompressionNone, or CompressionZstd, which allows it.
	SnapshotCompression string            `json:"snapshot_compression"`
	RoutingTable        *mvm.RoutingTable `json:"routing_table"`
	SecretScopes        []mvm.SecretScope `json:"secret_scopes"`
	Pinned              bool              `json:"pinned,omitempty"`
	Critical            bool              `json:"critical,omitempty"`
	Publish             []mvm.Publish     `json:"publish,omitempty"`
	Env                 map[string]string `json:"env,omitempty"`
	Integrations        []mvm.Integration `json:"integrations,omitempty"`
	WakeCatchUp         mvm.CatchUp       `json:"wake_catch_up,omitempty"`
	Egress              []string          `json:"egress,omitempty"`
	Peers               bool              `json:"peers,omitempty"`
	Limits              mvm.Limits        `json:"limits,omitzero"`
	Channels            []mvm.Channel     `json:"channels,omitempty"`
}

// Baseline is the seccomp policy of every VMM: the filter that QEMU sets itself
// (-sandbox on, without obsolete calls, new privileges, new processes and changes of
// its scheduling).
const Baseline = "baseline"

// The values of snapshot_compression. A snapshot is the instance's memory file,
// sparse, which a wake maps as it is (ADR 9): nothing is compressed today,
// and CompressionZstd is a permission that is not made use of.
const (
	CompressionNone = "none"
	CompressionZstd = "zstd"
)

// preset gives a Tenant what its text leaves out.
func (t *Tenant) preset() { t.Quotas = mvm.DefaultQuota() }

// preset gives a Pool what its text leaves out.
func (p *Pool) preset() {
	*p = Pool{Profile: "minimal", Role: mvm.RoleWorker, Resources: mvm.DefaultResources(),
		RuntimePolicy: mvm.DefaultRuntimePolicy(), SeccompPolicy: Baseline, SnapshotCompression: CompressionNone}
}
