package plan

import (
	"net/netip"
	"slices"
	"strings"

	"mvm"
)

// movePorts takes the host's ports that the deployment publishes from pools of the tenant
// that it does not name: a pool that got another id has its ports with the new id.
func (m *maker) movePorts(opts Options) {
	named := m.named()
	for _, p := range m.observed.Pools {
		if named[p.Spec.ID] || m.goes(p, opts) {
			continue
		}
		spec := p.Spec
		spec.Publish = nil
		var moved []string
		for _, pub := range p.Spec.Publish {
			if to := m.publisherOf(pub.Host); to != "" {
				moved = append(moved, pub.Host.String()+" to "+to)
				continue
			}
			spec.Publish = append(spec.Publish, pub)
		}
		if len(moved) > 0 {
			was := p.Spec
			m.add(Step{Kind: UpdatePool, Target: m.address(p.Spec.ID), Pool: &spec, Was: &was,
				Reason: "the deployment does not name it, and moves its port " + strings.Join(moved, ", ")})
		}
	}
}

// publisherOf is the pool of the deployment that publishes a port at the host's address,
// or one that leaves no room for it; empty: there is none.
func (m *maker) publisherOf(host netip.AddrPort) string {
	for _, spec := range m.desired.Pools {
		if slices.ContainsFunc(spec.Publish, func(p mvm.Publish) bool { return samePort(p.Host, host) }) {
			return spec.ID
		}
	}
	return ""
}

// samePort reports that no two can listen at both. A port of 0 is any free one.
func samePort(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Port() != 0 &&
		(a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}
