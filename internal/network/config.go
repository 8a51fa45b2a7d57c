package network

import (
	"net/netip"
	"slices"

	"mvm"
	"mvm/internal/egress"
)

// Validate checks the Config by itself: every net_id, id, MAC and address belongs to
// one owner, subnets do not overlap and every offset is an instance's address in its
// subnet. Its errors have kind invalid.
func (c Config) Validate() error {
	tenants, nets := map[string]bool{}, map[int]string{}
	for _, t := range c.Tenants {
		if tenants[t.ID] {
			return mvm.Errorf(mvm.KindInvalid, "check network: tenant %q is given twice", t.ID)
		}
		tenants[t.ID] = true
		if other, ok := nets[t.NetID]; ok {
			return mvm.Errorf(mvm.KindInvalid, "check network: tenants %q and %q have the same net_id %d", other, t.ID, t.NetID)
		}
		nets[t.NetID] = t.ID
		if err := t.Validate(); err != nil {
			return err
		}
	}
	return c.checkOverlaps()
}

func (c Config) checkOverlaps() error {
	byAddr := slices.Clone(c.Tenants)
	slices.SortFunc(byAddr, func(a, b Tenant) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	for i := 1; i < len(byAddr); i++ {
		a, b := byAddr[i-1], byAddr[i]
		if a.Subnet.Overlaps(b.Subnet) {
			return mvm.Errorf(mvm.KindInvalid, "check network: subnets %s of tenant %q and %s of tenant %q overlap", a.Subnet, a.ID, b.Subnet, b.ID)
		}
	}
	return nil
}

// Validate checks the tenant by itself. Its errors have kind invalid.
func (t Tenant) Validate() error {
	if t.ID == "" {
		return mvm.Errorf(mvm.KindInvalid, "check network: a tenant has no id")
	}
	if t.NetID < 0 || t.NetID > mvm.MaxNetID {
		return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: net_id %d is not in 0..%d", t.ID, t.NetID, mvm.MaxNetID)
	}
	if err := mvm.ValidateSubnet(t.Subnet); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: %w", t.ID, err)
	}
	for _, p := range t.HostPorts {
		if p < 1 || p > 65535 {
			return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: host port %d is not in 1..65535", t.ID, p)
		}
	}
	if t.Resolver && !t.Closed {
		return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: it has mvm's resolver and is not closed", t.ID)
	}
	if err := t.validateEgress(); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: %w", t.ID, err)
	}
	ids, offsets := map[string]bool{}, map[int]bool{}
	for _, i := range t.Instances {
		if i.ID == "" || ids[i.ID] || offsets[i.Offset] {
			return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: instance %q or its offset %d is given twice or empty", t.ID, i.ID, i.Offset)
		}
		if _, ok := mvm.SubnetAddr(t.Subnet, i.Offset); !ok || i.Offset < mvm.BuilderOffset {
			return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: instance %q has offset %d, which is no instance's address in %s", t.ID, i.ID, i.Offset, t.Subnet)
		}
		if i.Egress < 0 || i.Egress > len(t.Egress) {
			return mvm.Errorf(mvm.KindInvalid, "check network of tenant %q: instance %q has egress %d of %d", t.ID, i.ID, i.Egress, len(t.Egress))
		}
		ids[i.ID], offsets[i.Offset] = true, true
	}
	return nil
}

func (t Tenant) validateEgress() error {
	for _, list := range t.Egress {
		if len(list) > egress.Max {
			return mvm.Errorf(mvm.KindInvalid, "%d destinations of egress are more than %d", len(list), egress.Max)
		}
		for _, d := range list {
			if err := d.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reaches reports whether the two instances of one tenant reach each other.
func (i Instance) Reaches(other Instance) bool {
	return (!i.Alone || other.Gateway) && (!other.Alone || i.Gateway)
}

// Named reports whether the instance's egress has names. The tenant is valid.
func (t Tenant) Named(i Instance) bool { return i.Egress > 0 && egress.Named(t.Egress[i.Egress-1]) }

// Gateway returns the tenant's address on the host, the bridge's.
func (t Tenant) Gateway() netip.Addr {
	a, _ := mvm.SubnetAddr(t.Subnet, mvm.GatewayOffset)
	return a
}

// Clone returns a copy that shares nothing with c.
func (c Config) Clone() Config {
	out := Config{Tenants: slices.Clone(c.Tenants)}
	for i, t := range out.Tenants {
		out.Tenants[i].Instances = slices.Clone(t.Instances)
		out.Tenants[i].HostPorts = slices.Clone(t.HostPorts)
		out.Tenants[i].Egress = slices.Clone(t.Egress)
		for n, list := range t.Egress {
			out.Tenants[i].Egress[n] = slices.Clone(list)
		}
	}
	return out
}

// Equal reports whether the two say the same in the same order.
func (c Config) Equal(d Config) bool {
	return slices.EqualFunc(c.Tenants, d.Tenants, func(a, b Tenant) bool {
		return a.ID == b.ID && a.NetID == b.NetID && a.Subnet == b.Subnet && a.Closed == b.Closed && a.Resolver == b.Resolver &&
			slices.Equal(a.Instances, b.Instances) && slices.Equal(a.HostPorts, b.HostPorts) &&
			slices.EqualFunc(a.Egress, b.Egress, slices.Equal)
	})
}

// Find returns the tenant and its instance, and an error of kind not_found where the
// Config has no such instance.
func (c Config) Find(tenant, instance string) (Tenant, Instance, error) {
	for _, t := range c.Tenants {
		if t.ID != tenant {
			continue
		}
		for _, i := range t.Instances {
			if i.ID == instance {
				return t, i, nil
			}
		}
	}
	return Tenant{}, Instance{}, mvm.Errorf(mvm.KindNotFound, "find network port: instance %s of tenant %s is not in the network's config", instance, tenant).
		WithFix("apply a config that has it first")
}
