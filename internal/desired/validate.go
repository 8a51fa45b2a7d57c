package desired

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/limits"
)

// hashForm is a secrets_hash.
var hashForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate checks the whole document by itself: versions, ids, bounds, and that no two
// tenants share an id, a net_id or an address. It returns an error of KindInvalid that
// wraps Problems. What only the host knows (its node id, net_ids that were used
// before, its secrets) is the agent's to check.
//
// Each desired count is in 0..mvm.MaxDesired. That is the bound of one pool on one
// host, and a document is of one host; there is no bound on the sum over pools beside
// the tenants' quotas.
func (d Document) Validate() error {
	var ps Problems
	if d.SchemaVersion != SchemaVersion {
		ps.add("schema_version", "is %d, and this mvm knows version %d", d.SchemaVersion, SchemaVersion)
	}
	ps.check("node_id", mvm.ValidateNodeID(d.NodeID))
	if len(d.Tenants) > MaxEntries {
		ps.add("tenants", "has more than %d entries", MaxEntries)
	}
	seen := map[string]bool{}
	var nets networks
	for i, t := range d.Tenants {
		if ps.full() {
			break
		}
		at := fmt.Sprintf("tenants[%d]", i)
		if seen[t.TenantID] {
			ps.add(at+".tenant_id", "tenant %q is given twice", clip(t.TenantID))
		}
		seen[t.TenantID] = true
		t.validate(at, &ps)
		nets.add(at+".network", t, &ps)
	}
	return ps.err("desired state")
}

func (t Tenant) validate(at string, ps *Problems) {
	ps.check(at, t.spec().Validate())
	if t.SecretsHash != "" && !hashForm.MatchString(t.SecretsHash) {
		ps.add(at+".secrets_hash", "%q is not sha256: and 64 hex digits", clip(t.SecretsHash))
	}
	if t.Ceilings != nil {
		ps.check(at+".ceilings", limits.CheckCeilings(t.TenantID, *t.Ceilings))
	}
	if len(t.Pools) > t.Quotas.MaxPools {
		ps.add(at+".pools", "%d pools are more than max_pools %d of its quotas", len(t.Pools), t.Quotas.MaxPools)
	}
	pools := map[string]bool{}
	for i, p := range t.Pools {
		if ps.full() {
			return
		}
		in := fmt.Sprintf("%s.pools[%d]", at, i)
		if pools[p.PoolID] {
			ps.add(in+".pool_id", "pool %q is given twice", clip(p.PoolID))
		}
		pools[p.PoolID] = true
		p.validate(in, ps)
	}
	t.checkRoutes(at, pools, ps)
}

func (p Pool) validate(at string, ps *Problems) {
	ps.check(at, errors.Join(p.spec().Validate(), egress.Check(p.spec()), limits.CheckPool(p.spec())))
	if p.SeccompPolicy != Baseline {
		ps.add(at+".seccomp_policy", "%q is not there: the policy of every VMM is %q", clip(p.SeccompPolicy), Baseline)
	}
	if c := p.SnapshotCompression; c != CompressionNone && c != CompressionZstd {
		ps.add(at+".snapshot_compression", "%q is not %q or %q", clip(c), CompressionNone, CompressionZstd)
	}
}

// checkRoutes sees that every route and channel leads to a pool of the tenant.
func (t Tenant) checkRoutes(at string, pools map[string]bool, ps *Problems) {
	for i, p := range t.Pools {
		for j, c := range p.Channels {
			if !pools[c.To.PoolID] {
				ps.add(fmt.Sprintf("%s.pools[%d].channels[%d].target.pool_id", at, i, j), "pool %q is not in the tenant", clip(c.To.PoolID))
			}
		}
		if p.RoutingTable == nil {
			continue
		}
		for j, r := range p.RoutingTable.Routes {
			if !pools[r.To.PoolID] {
				ps.add(fmt.Sprintf("%s.pools[%d].routing_table.routes[%d].target.pool_id", at, i, j),
					"pool %q is not in the tenant", clip(r.To.PoolID))
			}
		}
	}
}

// networks are those seen so far.
type networks struct {
	ids     map[int]string // net_id -> tenant
	subnets []netip.Prefix
	owners  []string
}

// add notes where a tenant's network is that of another.
func (n *networks) add(at string, t Tenant, ps *Problems) {
	subnet := t.Network.IPv4Subnet
	if id := t.Network.TenantNetID; id != nil {
		if n.ids == nil {
			n.ids = map[int]string{}
		}
		if other, ok := n.ids[*id]; ok {
			ps.add(at+".tenant_net_id", "tenant %q has %d too", clip(other), *id)
		}
		n.ids[*id] = t.TenantID
		if !subnet.IsValid() && *id >= 0 && *id <= mvm.MaxNetID {
			subnet = mvm.DefaultSubnet(*id)
		}
	}
	if !subnet.IsValid() {
		return
	}
	for i, other := range n.subnets {
		if other.Overlaps(subnet) {
			ps.add(at+".ipv4_subnet", "%s overlaps %s of tenant %q", subnet, other, clip(n.owners[i]))
			break
		}
	}
	n.subnets, n.owners = append(n.subnets, subnet), append(n.owners, t.TenantID)
}
