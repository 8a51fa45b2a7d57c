package agent

import (
	"maps"
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

// maxEventLimits bounds what is remembered: beyond it, who has been quiet is forgotten.
const maxEventLimits = 4096

// eventLimits bound how often a limited action is recorded for each tenant, and where
// the tenant's own instances take turns at it, for each of them.
type eventLimits struct {
	mu sync.Mutex
	by map[eventKind]*eventLimit
}

type eventKind struct {
	tenant, instance string
	act              mvm.Action
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
	k := eventKind{tenant: e.Tenant, act: e.Action}
	if e.Action == mvm.TransitionDeferred || e.Action == mvm.DrainTimedOut {
		k.instance = e.Instance
	}
	if len(l.by) >= maxEventLimits {
		maps.DeleteFunc(l.by, func(_ eventKind, of *eventLimit) bool { return of.rate.Tokens() >= eventLimitBurst })
	}
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
