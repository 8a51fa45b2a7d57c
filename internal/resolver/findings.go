package resolver

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mvm/internal/network"
)

// Findings tells for which tenants nobody listens, and what was refused in the last hour: at
// most five names of a guest, since a guest writes what it likes into them.
func (r *Resolver) Findings() (out []network.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(r.tenants)) {
		t := r.tenants[id]
		if err := t.why(); err != nil {
			out = append(out, network.Finding{Severity: "error", Where: id, What: "guests can't ask for names: " + err.Error(),
				Fix: "free port 53 of " + t.gateway.String() + " for mvm: have the host's own name server listen on other addresses only; mvm tries every few seconds"})
		}
		guests := slices.SortedFunc(maps.Values(*t.guests.Load()), func(a, b *guest) int { return strings.Compare(a.instance, b.instance) })
		for _, g := range guests {
			out = append(out, g.findings()...)
		}
	}
	return out
}

func (g *guest) findings() (out []network.Finding) {
	g.mu.Lock()
	defer g.mu.Unlock()
	where, now := g.tenant+"/"+g.instance, time.Now()
	for _, name := range slices.Sorted(maps.Keys(g.refused)) {
		if now.Sub(g.refused[name]) <= refusedFor {
			out = append(out, network.Finding{Severity: "warning", Where: where, What: fmt.Sprintf("the guest asked for the name %q and was refused", name),
				Fix: "where that is meant, allow the name, or the private address that it has: mvm pool update " + g.tenant + "/POOL --egress …"})
		}
	}
	if g.more > 0 && len(out) > 0 {
		out = append(out, network.Finding{Severity: "warning", Where: where, What: fmt.Sprintf("the guest was refused %d more questions for names", g.more), Fix: "see what the guest does, in mvm logs"})
	}
	return out
}
