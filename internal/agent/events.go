package agent

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mvm"
	"mvm/internal/store"
)

// askerAgent is who asks when the agent itself does.
const askerAgent mvm.Asker = "agent"

// eventsPage bounds how many events are read at once.
const eventsPage = 500

// The audit log keeps its newest events; it is looked at this often.
const (
	keptEvents = 200_000
	trimEvery  = time.Hour
)

// trimEvents bounds the audit log for as long as the agent runs.
func (a *Agent) trimEvents() {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		if err := a.trimNow(); err != nil {
			a.log.Error("trim audit log", "error", err)
		}
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
	}
}

// trimNow trims the audit log to its bound, in several transactions where it is far
// beyond it.
func (a *Agent) trimNow() error {
	for gone := 1; gone > 0 && a.ctx.Err() == nil; {
		err := a.store.Update(func(tx *store.Tx) (err error) {
			gone, err = tx.TrimEvents(keptEvents)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Refusals by the quota that are recorded of one tenant: its guests and their clients
// can cause as many as they like, and must not crowd out what others did.
const (
	quotaEventsPerSec = 0.2
	quotaEventsBurst  = 20
)

// tenantLimits bound how often something may happen for each tenant.
type tenantLimits struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

func (l *tenantLimits) allow(tenant string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]*rate.Limiter{}
	}
	if l.by[tenant] == nil {
		l.by[tenant] = rate.NewLimiter(quotaEventsPerSec, quotaEventsBurst)
	}
	return l.by[tenant].Allow()
}

// append adds an event of the context's asker within a transaction.
func (a *Agent) append(tx *store.Tx, ctx context.Context, e mvm.Event) error {
	e.Time = time.Now()
	if e.By == "" {
		e.By = mvm.AskerFrom(ctx)
	}
	_, err := tx.AppendEvent(e)
	return err
}

// record adds an event that belongs to no change of state. Losing it is logged. Of
// refusals by a tenant's quota it records as many as are of use.
func (a *Agent) record(e mvm.Event) {
	if e.Action == mvm.QuotaExceeded && !a.quotaEvents.allow(e.Tenant) {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	err := a.store.Update(func(tx *store.Tx) error {
		_, err := tx.AppendEvent(e)
		return err
	})
	if err != nil {
		a.log.Error("record event", "action", e.Action, "instance", e.Instance, "error", err)
	}
}

// Events implements api.Service.
func (a *Agent) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	more := a.store.NewEvents()
	var page []mvm.Event
	var after uint64
	err := a.store.View(func(tx *store.Tx) (err error) {
		if f.Tail > 0 {
			page, err = tx.TailEvents(f, f.Tail)
		} else {
			page, err = tx.Events(0, f, eventsPage)
		}
		return err
	})
	for err == nil {
		for _, e := range page {
			if err := each(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(page) < eventsPage {
			if !f.Follow {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-a.ctx.Done():
				return nil
			case <-more:
			}
			more = a.store.NewEvents()
		}
		err = a.store.View(func(tx *store.Tx) (err error) {
			page, err = tx.Events(after, f, eventsPage)
			return err
		})
	}
	return err
}
