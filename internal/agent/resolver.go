package agent

import (
	"context"

	"mvm"
	"mvm/internal/deliver"
	"mvm/internal/guestproto"
	"mvm/internal/lifecycle"
	"mvm/internal/netstate"
	"mvm/internal/resolver"
)

// newResolver makes the name server of guests, where the networks have names.
func (a *Agent) newResolver() netstate.Resolver {
	if a.opt.Names == nil {
		return nil // not a nil resolver in the interface
	}
	a.resolver = resolver.New(resolver.Options{Network: a.opt.Names, Upstream: a.opt.Upstream, Count: a.opt.Metrics.Asked, Log: a.log})
	return a.resolver
}

func (a *Agent) closeResolver() {
	if a.resolver != nil {
		a.resolver.Close()
	}
}

// woken gives guests their configurations, and opens for those that wake what names opened
// before they slept.
type woken struct {
	*deliver.Deliverer
	a *Agent
}

var _ lifecycle.Deliver = woken{}

// Config implements lifecycle.Deliver.
func (w woken) Config(i mvm.Instance, reason string) (guestproto.Configure, error) {
	if reason == "wake" && w.a.resolver != nil {
		ctx, cancel := context.WithTimeout(w.a.ctx, w.a.opt.Timeouts.Call)
		defer cancel()
		w.a.resolver.Woke(ctx, i.Tenant, i.ID)
	}
	return w.Deliverer.Config(i, reason)
}
