package agent

import (
	"context"
	"fmt"
	"time"

	"mvm"
	"mvm/internal/store"
)

// byAgent is who asks when the agent itself does.
func byAgent() mvm.Asker { return mvm.Asker{Kind: mvm.AskerAgent} }

// append adds an event of the context's asker within a transaction.
func (a *Agent) append(tx *store.Tx, ctx context.Context, e mvm.Event) error {
	e.Time = time.Now()
	if e.By == (mvm.Asker{}) {
		e.By = mvm.AskerFrom(ctx)
	}
	if e.Request == "" {
		e.Request = mvm.RequestFrom(ctx)
	}
	_, err := tx.AppendEvent(e)
	return err
}

// record adds an event that belongs to no change of state. Losing it is logged. Of
// what guests can cause as often as they like it records as many as are of use.
func (a *Agent) record(e mvm.Event) {
	more, ok := a.eventLimits.allow(e)
	if !ok {
		return
	}
	if more > 0 {
		e.Detail += fmt.Sprintf(" (and %d more like it that were not recorded)", more)
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	err := a.store.Update(func(tx *store.Tx) error {
		_, err := tx.AppendEvent(e)
		return err
	})
	if err != nil {
		a.log.Error("record event", "action", e.Action, "tenant", e.Tenant, "pool", e.Pool, "instance", e.Instance, "error", err)
	}
}
