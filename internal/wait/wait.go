// Package wait has the ways in which the parts of an agent wait: for a time, for an end,
// for a turn. All of them wait on channels, which a simulated clock (testing/synctest) can
// tell from work.
package wait

import (
	"context"
	"time"
)

// End is what ended a wait.
type End int

const (
	Over     End = iota // its time is over
	Gone                // what it watched is gone, or poked it
	Canceled            // its context ended
)

// For waits until d is over, gone is closed or gives a value, or ctx ends. Of ends
// that come together it is always gone before canceled before over: who waits for an
// instance whose VMM ends at the deadline is told of the VMM, every time.
func For(ctx context.Context, gone <-chan struct{}, d time.Duration) End {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-gone:
		return Gone
	case <-ctx.Done():
	case <-t.C:
	}
	select {
	case <-gone:
		return Gone
	default:
	}
	if ctx.Err() != nil {
		return Canceled
	}
	return Over
}

// Done waits until done is closed, or returns why ctx ended before.
func Done(ctx context.Context, done <-chan struct{}) error {
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

// Every calls fn at the interval until ctx ends.
func Every(ctx context.Context, d time.Duration, fn func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		fn()
	}
}
