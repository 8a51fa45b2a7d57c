package live

import (
	"context"
	"maps"
	"slices"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/wait"
)

// limitsAtOnce is how many VMMs are given limits at once.
const limitsAtOnce = 8

// limited is what is known of the limits of a VMM.
type limited struct {
	turn    chan struct{} // one at a time asks the VMM; whoever waits for a slow one can give up
	inForce mvm.Limits    // the zero value: not known
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
		return
	}
	switch {
	case !l.Runs():
	case mvm.IsKind(err, mvm.KindInvalid): // the host can't, or an older hostd does not know how
		v.opt.Log.Warn("limit VMM", "instance", i.ID, "error", err)
		l.limits.inForce = want
	default:
		v.opt.Log.Warn("limit VMM; it is tried again", "instance", i.ID, "error", err)
		v.oweLimits(i)
	}
}
