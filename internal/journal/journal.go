// Package journal keeps the audit log of a host: it records events, within bounds for those
// that guests can cause as often as they like, gives them to readers and followers, trims
// and verifies them.
package journal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/store"
)

// Store is where the events are kept.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
	// NewEvents returns a channel that is closed at the next event.
	NewEvents() <-chan struct{}
	// LastMark names the end of the log.
	LastMark() audit.Mark
}

// Options are what a journal is made of.
type Options struct {
	Store Store
	Log   *slog.Logger
	// Retention is how long an event is kept, default 90 days.
	Retention time.Duration
}

// Journal is the audit log of a host. All methods may be called concurrently.
type Journal struct {
	opt       Options
	limits    limits
	followers followers

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// New makes a journal, which records and is read already, but is not trimmed.
func New(opt Options) *Journal {
	if opt.Retention == 0 {
		opt.Retention = defaultRetention
	}
	j := &Journal{opt: opt}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	return j
}

// Close ends Run and who follows the events. What is recorded later is still kept.
func (j *Journal) Close() { j.cancel() }

// Append adds an event of the context's asker, within the transaction of the change that
// it is about.
func (j *Journal) Append(ctx context.Context, tx *store.Tx, e mvm.Event) error {
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

// Record adds an event that belongs to no change of state. Losing it is logged. Of
// what guests can cause as often as they like it records as many as are of use.
func (j *Journal) Record(e mvm.Event) {
	more, ok := j.limits.allow(e)
	if !ok {
		return
	}
	if more > 0 {
		e.Detail += fmt.Sprintf(" (and %d more like it that were not recorded)", more)
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	err := j.opt.Store.Update(func(tx *store.Tx) error {
		_, err := tx.AppendEvent(e)
		return err
	})
	if err != nil {
		j.opt.Log.Error("record event", "action", e.Action, "tenant", e.Tenant, "pool", e.Pool, "instance", e.Instance, "error", err)
	}
}
