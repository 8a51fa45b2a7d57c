package agent

import (
	"cmp"
	"context"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/plan"
	"mvm/internal/schedule"
	"mvm/internal/wait"
)

var (
	_ schedule.Queue     = reached{}
	_ schedule.Snapshots = reached{}
)

// Boots implements schedule.Snapshots. Where it can't find out, it takes the instance for one
// that boots, so that there is time for that.
func (r reached) Boots(ctx context.Context, i mvm.Instance, pool mvm.Pool) string {
	if what := plan.Behind(i, pool); len(what) > 0 && !pool.Spec.Critical {
		return display.Clip(strings.Join(what, ", "))
	}
	files := r.a.folders.Snapshots(i)
	host, err := r.a.lifecycle.SnapshotHost(ctx)
	if err == nil {
		var misfit error
		misfit, err = files.Misfit(host, i)
		err = cmp.Or(misfit, err, files.Lacks(i))
	}
	if err != nil {
		return display.Clip(err.Error())
	}
	return ""
}

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

// Bounds of what is done when somebody sets the host's clock.
const (
	clockLook = time.Hour             // between two looks whether somebody did, where no wait ends for that
	clockStep = 20 * time.Millisecond // less is no step
)

// followClock has the clocks of guests that run set right whenever the host's was set, also
// while no agent ran.
func (a *Agent) followClock() {
	for set := true; a.ctx.Err() == nil; {
		if set {
			if err := a.lifecycle.ClockSet(); err != nil {
				a.log.Warn("set guests' clocks right", "error", err)
			}
		}
		began, wall := time.Now(), a.opt.Clock.Now().Round(0)
		a.opt.Clock.Wait(a.ctx, nil, wall.Add(clockLook))
		step := a.opt.Clock.Now().Round(0).Sub(wall) - time.Since(began)
		if set = step.Abs() > clockStep; set {
			a.log.Info("the host's clock was set", "by", step)
		}
	}
}

// toldTimer takes in what a guest that runs says of its next wake. One that boots has not set
// it yet.
func (a *Agent) toldTimer(i mvm.Instance, st guestproto.Status) {
	if st.Ready || !st.NextWake.IsZero() {
		a.schedule.Told(i, st.NextWake)
	}
}
