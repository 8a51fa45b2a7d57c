package desired

import (
	"cmp"
	"maps"
	"slices"

	"mvm"
)

// Deployments returns the document as a deployment per tenant, in its order. Secrets
// are nil in them: the tenants keep those that they have.
func (d Document) Deployments() []mvm.Deployment {
	out := make([]mvm.Deployment, len(d.Tenants))
	for i, t := range d.Tenants {
		out[i].Tenant = t.spec()
		for _, p := range t.Pools {
			out[i].Pools = append(out[i].Pools, p.spec())
		}
	}
	return out
}

func (t Tenant) spec() mvm.TenantSpec {
	quota := t.Quotas
	s := mvm.TenantSpec{ID: t.TenantID, Subnet: t.Network.IPv4Subnet, Quota: &quota, Ceilings: t.Ceilings, Pinned: t.Pinned,
		HostServices: slices.Clone(t.HostServices)}
	if id := t.Network.TenantNetID; id != nil {
		s.NetID = new(*id)
	}
	return s
}

func (p Pool) spec() mvm.PoolSpec {
	return mvm.PoolSpec{ID: p.PoolID, Role: p.Role, Profile: p.Profile, Flake: p.FlakeRef,
		Resources: p.Resources, Desired: p.DesiredCounts, Policy: p.RuntimePolicy,
		Pinned: p.Pinned, Critical: p.Critical, Routes: p.RoutingTable, Publish: slices.Clone(p.Publish),
		SecretScopes: slices.Clone(p.SecretScopes), Env: maps.Clone(p.Env), Integrations: slices.Clone(p.Integrations), Channels: slices.Clone(p.Channels), WakeCatchUp: p.WakeCatchUp, Egress: slices.Clone(p.Egress), Peers: p.Peers, Limits: p.Limits}
}

// FromState returns the document that would make the host again: its tenants and
// pools as they are asked for, in the order of their ids, without those on their way
// out. secretsHash returns a tenant's secrets_hash, empty for none; nil: none has one.
func FromState(nodeID string, tenants []mvm.Tenant, pools []mvm.Pool, secretsHash func(tenant string) string) Document {
	d := Document{SchemaVersion: SchemaVersion, NodeID: nodeID, Tenants: []Tenant{}}
	for _, t := range tenants {
		if t.Destroying {
			continue
		}
		out := tenantOf(t, pools)
		if secretsHash != nil {
			out.SecretsHash = secretsHash(t.ID)
		}
		d.Tenants = append(d.Tenants, out)
	}
	slices.SortFunc(d.Tenants, func(a, b Tenant) int { return cmp.Compare(a.TenantID, b.TenantID) })
	return d
}

func tenantOf(t mvm.Tenant, pools []mvm.Pool) Tenant {
	out := Tenant{TenantID: t.ID, Network: Network{TenantNetID: new(t.NetID), IPv4Subnet: t.Subnet}, Quotas: t.Quota, Ceilings: new(t.Ceilings),
		Pinned: t.Pinned, HostServices: slices.Clone(t.HostServices), Pools: []Pool{}}
	for _, p := range pools {
		if p.Tenant == t.ID && !p.Destroying {
			out.Pools = append(out.Pools, poolOf(p.Spec))
		}
	}
	slices.SortFunc(out.Pools, func(a, b Pool) int { return cmp.Compare(a.PoolID, b.PoolID) })
	return out
}

func poolOf(s mvm.PoolSpec) Pool {
	scopes := slices.Clone(s.SecretScopes)
	if scopes == nil {
		scopes = []mvm.SecretScope{}
	}
	// A pool that says nothing of these has the defaults, and a document says them.
	s.Policy.IdleCPUPercent, s.Policy.IdleBytesPerMinute = s.Policy.IdleLimits()
	return Pool{PoolID: s.ID, FlakeRef: s.Flake, Profile: s.Profile, Role: s.Role, Resources: s.Resources,
		DesiredCounts: s.Desired, RuntimePolicy: s.Policy, SeccompPolicy: Baseline, SnapshotCompression: CompressionNone,
		RoutingTable: s.Routes, SecretScopes: scopes, Pinned: s.Pinned, Critical: s.Critical,
		Publish: slices.Clone(s.Publish), Env: maps.Clone(s.Env), Integrations: slices.Clone(s.Integrations), Channels: slices.Clone(s.Channels), WakeCatchUp: s.WakeCatchUp, Egress: slices.Clone(s.Egress), Peers: s.Peers, Limits: s.Limits}
}
