package resolver

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
)

// Bounds of what is kept of a guest.
const (
	leastOpen  = 5 * time.Minute       // of an address: programs keep answers longer than they should
	maxOpen    = network.MaxAdmissions // addresses of one guest
	maxRefused = 5                     // names of one guest that are told
	refusedFor = time.Hour
)

// guest is an instance in a tenant's network.
type guest struct {
	tenant, instance string
	list             []egress.Destination
	named            bool
	limit, own       *rate.Limiter // what it asks at all, and what of that is not the tenant's
	asking, conns    atomic.Int32
	asked            atomic.Pointer[time.Time] // last; nil: never

	mu      sync.Mutex
	gone    bool                   // another is in its place
	again   bool                   // what is in open may not be, and is to be opened again
	open    map[netip.Addr]opening // with names only
	refused map[string]time.Time   // names, when they were refused first in the hour
	more    int                    // refused names beyond those
}

// opening is an address that is open for a guest.
type opening struct {
	until time.Time
	name  string // that led there
}

// follow takes the tenant's guests. Those that are as they were stay.
func (t *tenant) follow(of network.Tenant) {
	was := *t.guests.Load()
	now := make(map[netip.Addr]*guest, len(of.Instances))
	for _, i := range of.Instances {
		a, _ := mvm.SubnetAddr(of.Subnet, i.Offset)
		var list []egress.Destination
		if i.Egress > 0 {
			list = of.Egress[i.Egress-1]
		}
		g := was[a]
		if g == nil || g.instance != i.ID || !slices.Equal(g.list, list) {
			g = &guest{tenant: of.ID, instance: i.ID, list: list, named: egress.Named(list), limit: rate.NewLimiter(guestRate, guestBurst), own: rate.NewLimiter(ownRate, ownBurst)}
			g.succeed(was[a])
			// What it asks for before the change is applied is closed by it, and opened again after.
			if g.again = g.named; g.again {
				t.again.Store(true)
			}
		}
		now[a] = g
	}
	t.guests.Store(&now)
}

// succeed takes what stays open of the guest before, which has another egress, and what that
// was refused.
func (g *guest) succeed(before *guest) {
	if before == nil {
		return
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	before.gone = true
	if before.instance != g.instance {
		return
	}
	g.refused, g.more = maps.Clone(before.refused), before.more
	if !g.named {
		return
	}
	g.open = map[netip.Addr]opening{}
	g.asked.Store(before.asked.Load())
	for a, o := range before.open {
		if egress.AllowsName(g.list, o.name) {
			g.open[a] = o
		}
	}
}

// admit opens the addresses for the guest: nothing where they are open for long enough.
func (g *guest) admit(ctx context.Context, n network.Names, addrs []netip.Addr, name string, ttl uint32) error {
	g.mu.Lock() // held until they are open: whoever asks at the same time waits for it
	defer g.mu.Unlock()
	if g.gone {
		return mvm.Errorf(mvm.KindState, "its egress was changed meanwhile")
	}
	now := time.Now()
	need := max(time.Duration(ttl)*time.Second, leastOpen)
	var list []network.Admission
	for _, a := range addrs {
		if a.Is4() && (g.again || g.open[a].until.Before(now.Add(need))) && !slices.ContainsFunc(list, func(l network.Admission) bool { return l.Address == a }) {
			list = append(list, network.Admission{Address: a, For: need + need/2})
		}
	}
	if len(list) == 0 {
		return nil
	}
	if !g.room(list, now) {
		return mvm.Errorf(mvm.KindQuota, "%d addresses are open for it, which is the most", maxOpen)
	}
	if err := n.Admit(ctx, g.tenant, g.instance, list); err != nil {
		return err
	}
	if g.open == nil {
		g.open = map[netip.Addr]opening{}
	}
	for _, l := range list {
		g.open[l.Address] = opening{until: now.Add(l.For), name: name}
	}
	return nil
}

// room reports whether there is room for the list. mu is held.
func (g *guest) room(list []network.Admission, now time.Time) bool {
	if g.with(list) > maxOpen {
		for a, o := range g.open {
			if o.until.Before(now) {
				delete(g.open, a)
			}
		}
	}
	return g.with(list) <= maxOpen
}

// with is how many addresses are open with those of the list. mu is held.
func (g *guest) with(list []network.Admission) int {
	n := len(g.open)
	for _, l := range list {
		if _, has := g.open[l.Address]; !has {
			n++
		}
	}
	return n
}

// reopen opens again what was open at the time: for as long as it had then. What fails is left
// to the next readmit, or to the guest's next question. mu is held.
func (g *guest) reopen(ctx context.Context, n network.Names, at time.Time) error {
	now := time.Now()
	var list []network.Admission
	for a, o := range g.open {
		left := min(max(o.until.Sub(at), leastOpen), network.MaxAdmission)
		if !o.until.After(at) {
			delete(g.open, a)
			continue
		}
		g.open[a] = opening{until: now.Add(left), name: o.name}
		list = append(list, network.Admission{Address: a, For: left})
	}
	var err error
	if len(list) > 0 {
		err = n.Admit(ctx, g.tenant, g.instance, list)
	}
	g.again = err != nil
	return err
}

// readmit opens again what a change of egress left open.
func (r *Resolver) readmit(ctx context.Context, t *tenant) {
	if !t.again.Swap(false) {
		return
	}
	for _, g := range *t.guests.Load() {
		g.mu.Lock()
		if g.again && !g.gone {
			if err := g.reopen(ctx, r.opt.Network, time.Now()); err != nil {
				t.again.Store(true)
				r.opt.Log.Warn("open addresses again", "instance", g.instance, "error", err)
			}
		}
		g.mu.Unlock()
	}
}

// Woke opens again what was open when the guest asked last: its time stood still while it
// slept, so it may still keep the answers.
func (r *Resolver) Woke(ctx context.Context, tenant, instance string) {
	r.mu.Lock()
	t := r.tenants[tenant]
	r.mu.Unlock()
	if t == nil {
		return
	}
	for _, g := range *t.guests.Load() {
		if g.instance != instance || !g.named {
			continue
		}
		g.mu.Lock()
		if asked := g.asked.Load(); !g.gone && asked != nil {
			if err := g.reopen(ctx, r.opt.Network, *asked); err != nil {
				t.again.Store(true)
				r.opt.Log.Warn("open addresses again", "instance", g.instance, "error", err)
			}
			g.asksNow()
		}
		g.mu.Unlock()
	}
}

// asksNow notes when it asked last. It waits for nothing: another question of the guest may have
// addresses opened meanwhile.
func (g *guest) asksNow() {
	now := time.Now()
	g.asked.Store(&now)
}

// refuse notes a name that was refused. told: it is new, and few are.
func (g *guest) refuse(name string) (told bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for n, at := range g.refused {
		if now.Sub(at) > refusedFor {
			delete(g.refused, n)
			g.more = 0
		}
	}
	if _, known := g.refused[name]; known {
		return false
	}
	if len(g.refused) >= maxRefused {
		g.more++
		return false
	}
	if g.refused == nil {
		g.refused = map[string]time.Time{}
	}
	g.refused[strings.Clone(name)] = now
	return true
}
