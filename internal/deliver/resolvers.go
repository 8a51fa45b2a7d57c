package deliver

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"mvm"
)

// resolvers are those that guests get.
type resolvers struct {
	mu  sync.Mutex
	has []netip.Addr
}

func (r *resolvers) now() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has
}

// replace reports that the resolvers are others now. None at all changes nothing: the
// host is between two networks, and its guests keep what they have until it is in one.
func (r *resolvers) replace(next []netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(next) == 0 || slices.Equal(r.has, next) {
		return false
	}
	r.has = slices.Clone(next)
	return true
}

// resolversOf are those that guests of the tenant get.
func (d *Deliverer) resolversOf(t mvm.Tenant) []netip.Addr {
	if d.opt.Answers && t.Closed {
		return []netip.Addr{hostAddr(t)}
	}
	return d.dns.now()
}

// ReadResolvers takes what the host has now. changed: guests that run have others.
func (d *Deliverer) ReadResolvers() (changed bool) {
	return d.opt.Resolvers != nil && d.dns.replace(d.opt.Resolvers())
}

// FollowResolvers has the running guests told when the host's resolvers have changed.
// Sleepers learn it when they wake.
func (d *Deliverer) FollowResolvers(ctx context.Context) {
	if !d.ReadResolvers() {
		return
	}
	d.opt.Log.Info("guests get other resolvers", "resolvers", d.dns.now())
	if err := d.Later(""); err != nil && ctx.Err() == nil {
		d.opt.Log.Error("tell guests of other resolvers", "error", err)
	}
}
