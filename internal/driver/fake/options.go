package fake

import (
	"context"
	"time"

	"mvm"
)

// Options are the knobs of a Driver. The functions may be called from many
// goroutines and may block; id is the instance's, empty for Info and Sweep.
type Options struct {
	// Hook is called first, with no lock held. It may block for as long as it likes;
	// its error fails the operation.
	Hook func(ctx context.Context, op Op, id string) error
	// Fail returns the error with which the operation fails; nil lets it go on.
	Fail func(op Op, id string) error
	// Latency says how long the operation takes before it acts. It ends early, with
	// the operation not done, when the call's context does.
	Latency func(op Op, id string) time.Duration
}

// seam is passed by every operation before it acts.
func (o Options) seam(ctx context.Context, op Op, id string) error {
	if o.Hook != nil {
		if err := o.Hook(ctx, op, id); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "%s %s: %w", op, id, err)
		}
	}
	if o.Latency != nil {
		if d := o.Latency(op, id); d > 0 {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
	}
	if err := ctxError(ctx, op, id); err != nil {
		return err
	}
	if o.Fail != nil {
		if err := o.Fail(op, id); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "%s %s: %w", op, id, err)
		}
	}
	return nil
}

// ctxError gives the context's end a kind.
func ctxError(ctx context.Context, op Op, id string) error {
	switch ctx.Err() {
	case nil:
		return nil
	case context.DeadlineExceeded:
		return mvm.Errorf(mvm.KindTimeout, "%s %s: %w", op, id, ctx.Err())
	}
	return mvm.Errorf(mvm.KindCanceled, "%s %s: %w", op, id, ctx.Err())
}
