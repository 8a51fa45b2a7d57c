package agent

import (
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"mvm"
)

// Events that a tenant's guests and their clients can cause as often as they like are
// recorded up to a burst, and then one in a while with the number of those in between:
// they must not crowd out what others did.
const (
	eventLimitPerSec = 1.0 / 300
	eventLimitBurst  = 20
)

// limited reports whether guests can cause the action without changing any state.
func limited(act mvm.Action) bool {
	return slices.Contains([]mvm.Action{mvm.QuotaExceeded, mvm.WakeRefused, mvm.DrainTimedOut, mvm.TransitionDeferred}, act)
}

// eventLimits bound how often a limited action is recorded for each tenant.
type eventLimits struct {
	mu sync.Mutex
	by map[eventKind]*eventLimit
}

type eventKind struct {
	tenant string
	act    mvm.Action
}

type eventLimit struct {
	rate    *rate.Limiter
	skipped int
}

// allow reports whether the event is to be recorded, and how many like it were not
// since the last one that was.
func (l *eventLimits) allow(e mvm.Event) (skipped int, ok bool) {
	if !limited(e.Action) {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[eventKind]*eventLimit{}
	}
	k := eventKind{e.Tenant, e.Action}
	of := l.by[k]
	if of == nil {
		of = &eventLimit{rate: rate.NewLimiter(eventLimitPerSec, eventLimitBurst)}
		l.by[k] = of
	}
	if !of.rate.Allow() {
		of.skipped++
		return 0, false
	}
	skipped, of.skipped = of.skipped, 0
	return skipped, true
}
