package agent

import (
	"net/netip"
	"slices"
	"sync"
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

// readResolvers takes what the host has now. changed: guests that run have others.
func (a *Agent) readResolvers() (changed bool) {
	return a.opt.Resolvers != nil && a.dns.replace(a.opt.Resolvers())
}

// followResolvers has the running guests told when the host's resolvers have changed.
// Sleepers learn it when they wake.
func (a *Agent) followResolvers() {
	if !a.readResolvers() {
		return
	}
	a.log.Info("guests get other resolvers", "resolvers", a.dns.now())
	if err := a.deliverLater(a.ctx, ""); err != nil && a.ctx.Err() == nil {
		a.log.Error("tell guests of other resolvers", "error", err)
	}
}
