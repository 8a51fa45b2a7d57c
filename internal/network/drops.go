package network

import "context"

// Counters are networks that count what they drop because a guest sends or gets more than its
// rate.
type Counters interface {
	// Dropped returns how many frames of the instance, which must be in the Config that was
	// applied last, were dropped since the last quiet hour of it.
	Dropped(ctx context.Context, tenant, instance string) (Drops, error)
}

// Drops are frames that were dropped.
type Drops struct {
	Sent     uint64 `json:"sent"`     // by the guest
	Received uint64 `json:"received"` // that were on their way to the guest
}
