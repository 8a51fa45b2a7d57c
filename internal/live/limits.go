package live

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/wait"
)

// limitsAtOnce is how many VMMs are given limits at once.
const limitsAtOnce = 8

// limited is what is known of the limits of a VMM.
type limited struct {
	turn    chan struct{}          // one at a time asks the VMM; whoever waits for a slow one can give up
	inForce mvm.Limits             // the zero value: not known
	refused atomic.Pointer[string] // why it does not have what it should; nil: it has, or not known
}

// Limit gives the VMMs of the instances the limits that they should have now. What fails is
// tried again by RetryLimits.
func (v *VMMs) Limit(ctx context.Context, instances []mvm.Instance) {
	wait.Each(instances, limitsAtOnce, func(i mvm.Instance) { v.limit(ctx, i) })
}

// RetryLimits tries again what failed. It asks nobody while nothing is owed.
func (v *VMMs) RetryLimits(ctx context.Context) {
	v.owedMu.Lock()
	again := make([]mvm.Instance, 0, len(v.owed))
	for _, id := range slices.Sorted(maps.Keys(v.owed)) {
		again = append(again, v.owed[id])
	}
	clear(v.owed)
	v.owedMu.Unlock()
	v.Limit(ctx, again)
}

// limitStarted sees that a VMM which was started just now with the limits has those of now.
func (v *VMMs) limitStarted(ctx context.Context, i mvm.Instance, l *VMM, started mvm.Limits) {
	if lim, ok := l.vmm.(driver.Limiter); ok && lim.Unlimited() != nil {
		if done, err := wait.Slot(ctx, l.limits.turn); err == nil {
			v.refused(i, l, started, lim.Unlimited())
			done()
		}
		v.oweLimits(i)
		return
	}
	v.limit(ctx, i) // they may have changed meanwhile
}

// Unlimited says why the instance's VMM does not have the limits that it should have; "" where
// it has, and where that is not known.
func (v *VMMs) Unlimited(id string) string {
	if l := v.Of(id); l.Runs() {
		if why := l.limits.refused.Load(); why != nil {
			return *why
		}
	}
	return ""
}

func (v *VMMs) oweLimits(i mvm.Instance) {
	v.owedMu.Lock()
	defer v.owedMu.Unlock()
	v.owed[i.ID] = i
}

func (v *VMMs) limit(ctx context.Context, i mvm.Instance) {
	l := v.Of(i.ID)
	if !l.Runs() {
		return
	}
	lim, ok := l.vmm.(driver.Limiter)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, v.opt.Call)
	defer cancel()
	done, err := wait.Slot(ctx, l.limits.turn)
	if err != nil {
		v.oweLimits(i)
		return
	}
	defer done()
	want, err := v.opt.Limits(i)
	if err == nil && want == l.limits.inForce {
		return
	}
	if err == nil {
		err = lim.Limit(ctx, want)
	}
	if err == nil {
		l.limits.inForce = want
		l.limits.refused.Store(nil)
		return
	}
	v.refused(i, l, want, err)
}

// refused notes that the VMM did not take the limits that it should have. The turn is held.
func (v *VMMs) refused(i mvm.Instance, l *VMM, want mvm.Limits, err error) {
	why := display.Clip(err.Error())
	switch {
	case !l.Runs():
	case mvm.IsKind(err, mvm.KindInvalid): // the host can't, or an older hostd does not know how
		v.opt.Log.Warn("limit VMM", "instance", i.ID, "error", err)
		l.limits.inForce = want
		l.limits.refused.Store(&why)
	default:
		v.opt.Log.Warn("limit VMM; it is tried again", "instance", i.ID, "error", err)
		why += "; mvm tries again"
		l.limits.inForce = mvm.Limits{}
		l.limits.refused.Store(&why)
		v.oweLimits(i)
	}
}
