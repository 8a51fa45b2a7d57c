package agent

import (
	"context"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/store"
)

// eventsPage bounds how many events are read at once, and maxFollowers who can wait
// for new ones.
const (
	eventsPage   = 500
	maxFollowers = 64
)

// Events implements api.Service.
func (a *Agent) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	if f.Follow {
		if a.followers.Add(1) > maxFollowers {
			a.followers.Add(-1)
			return mvm.Errorf(mvm.KindUnavailable, "follow events: %d others do already", maxFollowers).WithFix("try again later")
		}
		defer a.followers.Add(-1)
	}
	after := f.After
	if f.Tail > 0 && after == 0 {
		last, err := a.tailEvents(f, each)
		if err != nil {
			return err
		}
		after = last
	}
	for {
		more := a.store.NewEvents()
		var page []mvm.Event
		looked := after
		err := a.store.View(func(tx *store.Tx) (err error) {
			page, looked, err = tx.Events(after, f, eventsPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := each(e); err != nil {
				return err
			}
		}
		if looked > after {
			after = looked
			continue
		}
		if !f.Follow || !a.waitEvents(ctx, more) {
			return nil
		}
	}
}

// waitEvents waits for an event that is not read yet; false when nobody waits any more.
func (a *Agent) waitEvents(ctx context.Context, more <-chan struct{}) bool {
	select {
	case <-more:
		return true
	case <-ctx.Done():
	case <-a.ctx.Done():
	}
	return false
}

// tailEvents gives the last events that the filter chooses and returns the number up to
// which the log was looked at.
func (a *Agent) tailEvents(f mvm.EventFilter, each func(mvm.Event) error) (looked uint64, err error) {
	var page []mvm.Event
	err = a.store.View(func(tx *store.Tx) (err error) {
		looked = tx.LastEvent()
		page, err = tx.TailEvents(f, f.Tail, 0)
		return err
	})
	for _, e := range page {
		if err == nil {
			err = each(e)
		}
	}
	return looked, err
}

// VerifyEvents implements api.Service.
func (a *Agent) VerifyEvents(ctx context.Context, expect string) (r mvm.AuditReport, err error) {
	var mark audit.Mark
	if expect != "" {
		if mark, err = audit.ParseMark(expect); err != nil {
			return r, err
		}
	}
	err = a.store.View(func(tx *store.Tx) error {
		r, err = tx.VerifyEvents(mark, ctx.Err)
		return err
	})
	return r, err
}
