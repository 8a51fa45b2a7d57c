package journal_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/journal"
	"mvm/internal/store"
)

// What guests can cause without end is recorded up to a bound that does not let them
// push out what others did, and the number of what was left out is told.
func TestGuestsDoNotCrowdOutTheAuditLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		j := journal.New(journal.Options{Store: st, Log: slog.New(slog.DiscardHandler)})
		for range 24 * 3600 { // a guest that is refused every second for a day
			j.Record(mvm.Event{Action: mvm.WakeRefused, Tenant: "hostile", Detail: "no"})
			time.Sleep(time.Second)
		}
		j.Record(mvm.Event{Action: mvm.WakeRefused, Tenant: "other"})
		var last mvm.Event
		n, others := 0, 0
		err = j.Events(context.Background(), mvm.EventFilter{}, func(e mvm.Event) error {
			if e.Tenant == "other" {
				others++
				return nil
			}
			n, last = n+1, e
			return nil
		})
		if err != nil || n > 400 || n < 250 || others != 1 {
			t.Errorf("a day of refusals made %d entries, and another tenant's %d: %v; want about 300, and 1", n, others, err)
		}
		if !strings.Contains(last.Detail, "and 299 more like it") {
			t.Errorf("the last entry says %q, want how many were left out", last.Detail)
		}
	})
}

// An entry is kept as long as the config says, and the log is intact after trimming.
func TestEventsAreKeptByDays(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for days := 10; days > 0; days-- {
		err := st.Update(func(tx *store.Tx) error {
			_, err := tx.AppendEvent(mvm.Event{Time: time.Now().Add(-time.Duration(days)*24*time.Hour - time.Minute), Action: mvm.PoolBuilt, Detail: fmt.Sprint(days)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	j := journal.New(journal.Options{Store: st, Log: slog.New(slog.DiscardHandler), Retention: 7 * 24 * time.Hour})
	if err := j.Trim(); err != nil {
		t.Fatal(err)
	}
	var kept []string
	err = j.Events(context.Background(), mvm.EventFilter{}, func(e mvm.Event) error { kept = append(kept, e.Detail); return nil })
	if got := strings.Join(kept, " "); err != nil || got != "6 5 4 3 2 1" {
		t.Errorf("kept entries of %s days ago, %v; want 6 to 1", got, err)
	}
	r, err := j.Verify(context.Background(), "")
	if err != nil || !r.Intact || r.First != 5 {
		t.Errorf("after trimming: %+v, %v", r, err)
	}
	noted := audit.Mark{Seq: 2, Hash: strings.Repeat("0", 64)}
	if r, err := j.Verify(context.Background(), noted.String()); err != nil || !r.Intact || !r.ExpectTrimmed {
		t.Errorf("an entry that was trimmed: %+v, %v; want that there is nothing to compare", r, err)
	}
	if _, err := j.Verify(context.Background(), "2:xyz"); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a bad mark: %v", err)
	}
}

// Who has ended makes room for another, of a tenant and of the host alike.
func TestFollowersThatEndMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		j := journal.New(journal.Options{Store: st, Log: slog.New(slog.DiscardHandler)})
		for tenant, most := range map[string]int{"acme": 16, "": 32} {
			filter := mvm.EventFilter{Tenant: tenant, Follow: true}
			for round := range 3 {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, most)
				for range most {
					go func() { ended <- j.Events(ctx, filter, func(mvm.Event) error { return nil }) }()
				}
				synctest.Wait()
				if n := len(ended); n > 0 {
					t.Errorf("%q, round %d: %d of %d are refused: %v", tenant, round, n, most, <-ended)
					cancel()
					return
				}
				if err := j.Events(ctx, filter, func(mvm.Event) error { return nil }); !mvm.IsKind(err, mvm.KindUnavailable) {
					t.Errorf("%q: one more than %d: %v, want it refused", tenant, most, err)
				}
				cancel()
				synctest.Wait()
			}
		}
	})
}
