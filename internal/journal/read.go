package journal

import (
	"context"
	"math"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/store"
)

// eventsPage bounds how many events are read at once.
const eventsPage = 500

// Events calls each for the events that the filter chooses, in their order. It ends at
// the last of them, or, for one who follows, when ctx ends or the journal is closed.
func (j *Journal) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	if f.Follow {
		leave, err := j.followers.enter(f.Tenant)
		if err != nil {
			return err
		}
		defer leave()
	}
	after := f.After
	if f.Tail > 0 && after == 0 {
		var err error
		if after, err = j.beforeTail(ctx, f); err != nil {
			return err
		}
	}
	for {
		more := j.opt.Store.NewEvents()
		var page []mvm.Event
		looked := after
		err := j.opt.Store.View(func(tx *store.Tx) (err error) {
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
		if !f.Follow || !j.waitEvents(ctx, more) {
			return nil
		}
	}
}

// waitEvents waits for an event that is not read yet; false when nobody waits any more.
func (j *Journal) waitEvents(ctx context.Context, more <-chan struct{}) bool {
	select {
	case <-more:
		return true
	case <-ctx.Done():
	case <-j.ctx.Done():
	}
	return false
}

// beforeTail returns the number of the event before the last f.Tail ones that the
// filter chooses. It reads the log backwards in pages and keeps none of it, whatever
// the number asked for.
func (j *Journal) beforeTail(ctx context.Context, f mvm.EventFilter) (after uint64, err error) {
	after = math.MaxUint64
	for left := f.Tail; left > 0 && after > 0 && err == nil; {
		found := 0
		err = j.opt.Store.View(func(tx *store.Tx) (err error) {
			after, found, err = tx.Back(after, f, left)
			return err
		})
		if left -= found; ctx.Err() != nil {
			return 0, mvm.Errorf(mvm.KindCanceled, "read events: %w", context.Cause(ctx))
		}
	}
	return after, err
}

// Verify checks the hashes of the log, and where expect is given (a mark that somebody has
// noted) that the log has that entry.
func (j *Journal) Verify(ctx context.Context, expect string) (r mvm.AuditReport, err error) {
	var mark audit.Mark
	if expect != "" {
		if mark, err = audit.ParseMark(expect); err != nil {
			return r, err
		}
	}
	err = j.opt.Store.View(func(tx *store.Tx) error {
		r, err = tx.VerifyEvents(mark, ctx.Err)
		return err
	})
	return r, err
}
