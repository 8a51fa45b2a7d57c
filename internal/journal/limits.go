package journal

import (
	"maps"
	"sync"

	"golang.org/x/time/rate"

	"mvm"
)

// Events that a tenant's guests and their clients can cause as often as they like are
// recorded up to a burst, and then one in a while with the number of those in between:
// they must not crowd out what others did. What the tenant's people do without changing
// any state is recorded more often, since each entry says something of its own.
const (
	eventLimitPerSec = 1.0 / 300
	eventLimitBurst  = 20
	useLimitPerSec   = 1.0 / 10
	useLimitBurst    = 1000

	messageLimitPerSec = 1.0 / 30
	messageLimitBurst  = 50
)

// limit is how often the action is recorded; false: always, since it changes state.
func limit(act mvm.Action) (perSec rate.Limit, burst int, limited bool) {
	switch act {
	case mvm.MessageAccepted, mvm.MessageRefused, mvm.MessageSetAside, mvm.ReplyInterrupted:
		return messageLimitPerSec, messageLimitBurst, true
	case mvm.QuotaExceeded, mvm.WakeRefused, mvm.DrainTimedOut, mvm.TransitionDeferred:
		return eventLimitPerSec, eventLimitBurst, true
	}
	if isUse(act) {
		return useLimitPerSec, useLimitBurst, true
	}
	return 0, 0, false
}

// isUse reports whether the action is what people do without changing any state of an instance. It
// is limited for each of them, so that nobody hides what another does.
func isUse(act mvm.Action) bool {
	switch act {
	case mvm.ExecStarted, mvm.LogsRead, mvm.MessageRead, mvm.BuildStarted, mvm.BuildFailed, mvm.BuildCanceled:
		return true
	}
	return false
}

// maxLimits bounds what is remembered: beyond it, who has been quiet is forgotten.
const maxLimits = 4096

// limits bound how often a limited action is recorded for each tenant, and where
// the tenant's own instances take turns at it, for each of them.
type limits struct {
	mu sync.Mutex
	by map[kind]*eventLimit
}

type kind struct {
	tenant, instance string
	by               mvm.Asker
	act              mvm.Action
}

type eventLimit struct {
	rate    *rate.Limiter
	skipped int
}

// allow reports whether the event is to be recorded, and how many like it were not
// since the last one that was.
func (l *limits) allow(e mvm.Event) (skipped int, ok bool) {
	perSec, burst, limited := limit(e.Action)
	if !limited {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[kind]*eventLimit{}
	}
	k := kind{tenant: e.Tenant, act: e.Action}
	if e.Action == mvm.TransitionDeferred || e.Action == mvm.DrainTimedOut {
		k.instance = e.Instance
	}
	if isUse(e.Action) {
		k.by = e.By
	}
	if len(l.by) >= maxLimits {
		maps.DeleteFunc(l.by, func(_ kind, of *eventLimit) bool { return of.rate.Tokens() >= float64(of.rate.Burst()) })
	}
	of := l.by[k]
	if of == nil {
		of = &eventLimit{rate: rate.NewLimiter(perSec, burst)}
		l.by[k] = of
	}
	if !of.rate.Allow() {
		of.skipped++
		return 0, false
	}
	skipped, of.skipped = of.skipped, 0
	return skipped, true
}
