package image

import (
	"context"
	"time"

	"mvm"
)

// Limits bound what builds take of a host, whoever asks for them.
type Limits struct {
	Resolve   time.Duration // for looking up what a request names
	Build     time.Duration // for one build, without the time in which it waits for its turn
	Parallel  int           // builds at the same time
	PerTenant int           // of them for one tenant
	Logs      int           // of builds, that are kept
	LogBytes  int           // of one log
}

// DefaultLimits are those of Open.
func DefaultLimits() Limits {
	return Limits{Resolve: 10 * time.Minute, Build: time.Hour, Parallel: 4, PerTenant: 2, Logs: 200, LogBytes: 256 << 10}
}

// within bounds what is done to a reference.
func within(ctx context.Context, d time.Duration, what, ref string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, mvm.Errorf(mvm.KindUnavailable, "%s image %s: it was stopped after %s", what, ref, d).
		WithFix("see why it takes so long in its log, and build again"))
}

// ended is the error of what a context bounded: the bound, where that is the reason.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return context.Cause(ctx)
	}
	return err
}
