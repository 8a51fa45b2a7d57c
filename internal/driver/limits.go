package driver

import (
	"context"

	"mvm"
)

// Limiter is a VMM whose limits can be changed while it runs or is paused. Limit may be
// called at any moment. No field is 0. After an error some of the limits may be in force;
// calling it again helps where the cause is gone, and never after one of KindInvalid.
type Limiter interface {
	Limit(ctx context.Context, l mvm.Limits) error
	// Unlimited says why the VMM was started without some of its Spec's limits, with an error
	// as of Limit; nil: it has them all, or was not started by this holder.
	Unlimited() error
}
