package nix

import "net/netip"

// AttributeOf is what of a flake a request builds.
var AttributeOf = attributeOf

// Clip is one short line of what a stranger wrote.
var Clip = clip

// Allowing has cages reach addresses that the function allows.
func (o Options) Allowing(allow func(netip.Addr, uint16) error) Options {
	o.allow = allow
	return o
}
