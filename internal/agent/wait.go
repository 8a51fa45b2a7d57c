package agent

import (
	"context"
	"time"
)

// pauseEnd is what ended a pause.
type pauseEnd int

const (
	pauseOver     pauseEnd = iota // its time is over
	pauseGone                     // what it watched is gone, or poked it
	pauseCanceled                 // its context ended
)

// pause waits until d is over, gone is closed or gives a value, or ctx ends. Of ends
// that come together it is always gone before canceled before over: who waits for an
// instance whose VMM ends at the deadline is told of the VMM, every time.
func pause(ctx context.Context, gone <-chan struct{}, d time.Duration) pauseEnd {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-gone:
		return pauseGone
	case <-ctx.Done():
	case <-t.C:
	}
	select {
	case <-gone:
		return pauseGone
	default:
	}
	if ctx.Err() != nil {
		return pauseCanceled
	}
	return pauseOver
}

// waitDone waits until done is closed, or returns why ctx ended before.
func waitDone(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-done:
		return nil
	default:
		return context.Cause(ctx)
	}
}
