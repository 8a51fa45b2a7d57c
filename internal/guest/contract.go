package guest

import (
	"context"
	"time"

	"mvm/internal/guestproto"
)

// Router is the gateway role's traffic router. Its methods may be called
// concurrently.
type Router interface {
	// Configure puts the routes, identity and listen ports of c in force, replacing
	// the former ones; applying it twice is the same as once. When it returns without
	// error, the router listens.
	Configure(c guestproto.Configure) error
	// Fence forgets that an instance is awake and returns the requests to it that are
	// under way. Where its memory is gone it ends them.
	Fence(f guestproto.Fence) int
	// Peers lists the instances to which there are connections.
	Peers() guestproto.Peers
	// Use says of an instance how many requests and streams to it there are, quiet ones
	// too, and when bytes last passed; zeroes where nothing is known of it.
	Use(instance string) (open int, last time.Time)
	// Active counts requests and connections under way.
	Active() int
	// Close stops listening, ends what is under way and waits for it.
	Close() error
}

// Host asks the host over port 53. Its method may be called concurrently. An
// {"Error":…} that the host answers is a *guestproto.RemoteError in the error's
// chain.
type Host interface {
	Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error)
}
