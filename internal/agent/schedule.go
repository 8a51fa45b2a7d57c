package agent

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/schedule"
	"mvm/internal/wait"
)

var _ schedule.Queue = reached{}

// steadyClock is a clock that nobody sets.
type steadyClock struct{}

var _ schedule.Clock = steadyClock{}

// Now implements schedule.Clock.
func (steadyClock) Now() time.Time { return time.Now() }

// Wait implements schedule.Clock.
func (steadyClock) Wait(ctx context.Context, poked <-chan struct{}, until time.Time) {
	if until.IsZero() {
		select {
		case <-poked:
		case <-ctx.Done():
		}
		return
	}
	wait.For(ctx, poked, time.Until(until))
}

// toldTimer takes in what a guest that runs says of its next wake. One that boots has not set
// it yet.
func (a *Agent) toldTimer(i mvm.Instance, st guestproto.Status) {
	if st.Ready || !st.NextWake.IsZero() {
		a.schedule.Told(i, st.NextWake)
	}
}
