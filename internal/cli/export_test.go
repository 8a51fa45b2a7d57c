package cli

import (
	"context"
	"net/netip"
)

// EncodeYAML is how -o yaml prints a value.
func EncodeYAML(v any) ([]byte, error) { return encode(asYAML, v) }

// Followed is the end of a command that follows.
func Followed(ctx context.Context, follow bool, err error) error { return followed(ctx, follow, err) }

// Reachable is how connect says where a published port is.
func Reachable(bound, remote string) (address, only string) {
	at := reachable(netip.MustParseAddrPort(bound), remote)
	return at.address, at.only
}
