package nix

import (
	"context"
	"net"
	"net/netip"
)

// AttributeOf is what of a flake a request builds.
var AttributeOf = attributeOf

// Clip is one short line of what a stranger wrote.
var Clip = clip

// Allowing has cages reach addresses that the function allows.
func (o Options) Allowing(allow func(netip.Addr, uint16) error) Options {
	o.allow = allow
	return o
}

// MaxWaiting is how many connections to the way out may be silent, and HeadTimeout for how long.
const (
	MaxWaiting  = maxWaiting
	HeadTimeout = headTimeout
)

// ServeProxy serves a listener as that of a cage. stop ends it, after the context.
func ServeProxy(ctx context.Context, l net.Listener, allow func(netip.Addr, uint16) error) (stop func()) {
	return newProxy(ctx, l, allow).close
}

// Tools looks for what a cage has of Nix, on a host whose programs are in the folder.
func Tools(ctx context.Context, folder string) (version string, err error) {
	defer func(all []string) { searched = all }(searched)
	searched = []string{folder}
	t, err := findTools(ctx)
	return t.version, err
}
