package store_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/store"
)

var auditKey = []byte(strings.Repeat("a", 32))

func sealed() store.Options { return store.Options{AuditKey: auditKey} }

func appendN(tx *store.Tx, n int) error {
	for range n {
		_, err := tx.AppendEvent(mvm.Event{Time: time.Now(), Action: mvm.InstanceWoken, Tenant: "acme", Instance: "i-00000001", By: mvm.ParseAsker("cli:root"), Detail: "as asked"})
		if err != nil {
			return err
		}
	}
	return nil
}

// logOf makes a closed file with 20 entries, of which the first 5 were trimmed.
func logOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.OpenWith(path, sealed())
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		update(t, s, func(tx *store.Tx) error { return appendN(tx, 5) })
	}
	update(t, s, func(tx *store.Tx) error {
		gone, early, err := tx.TrimEvents(time.Time{}, 15)
		if gone != 5 || early != 5 {
			t.Errorf("%d entries went, %d of them early; want 5", gone, early)
		}
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func eventsOf(tx *store.Tx, after uint64, f mvm.EventFilter, limit int) ([]mvm.Event, error) {
	all, _, err := tx.Events(after, f, limit)
	return all, err
}

// tamper changes a closed file as somebody with the right to write it can.
func tamper(t *testing.T, path string, fn func(events, ends *bbolt.Bucket) error) {
	t.Helper()
	tamperFile(t, path, func(tx *bbolt.Tx) error { return fn(tx.Bucket([]byte("events")), tx.Bucket([]byte("audit"))) })
}

func tamperFile(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(fn)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func eventAt(b *bbolt.Bucket, n uint64) (e mvm.Event) {
	if err := json.Unmarshal(b.Get(key(n)), &e); err != nil {
		panic(err)
	}
	return e
}

func putEvent(b *bbolt.Bucket, at uint64, e mvm.Event) error {
	raw, err := json.Marshal(e)
	return errors.Join(err, b.Put(key(at), raw))
}

// rechain makes every hash anew, as a careful forger does.
func rechain(b *bbolt.Bucket, from, to uint64) (audit.Mark, error) {
	prev := eventAt(b, from-1).Hash
	for n := from; n <= to; n++ {
		e := eventAt(b, n)
		e.Seq = n
		e.Hash = audit.Hash(prev, e)
		prev = e.Hash
		if err := putEvent(b, n, e); err != nil {
			return audit.Mark{}, err
		}
	}
	return audit.Mark{Seq: to, Hash: prev}, nil
}

// forge writes other ends, with the seal of another key.
func forge(ends *bbolt.Bucket, change func(e *audit.Ends)) error {
	var e audit.Ends
	if err := json.Unmarshal(ends.Get([]byte("ends")), &e); err != nil {
		return err
	}
	change(&e)
	e.Sign([]byte("another key"))
	raw, err := json.Marshal(e)
	return errors.Join(err, ends.Put([]byte("ends"), raw))
}

// Whatever is done to the log shows: at once in a look at the file, and still after
// the agent has opened it and written more.
func TestTamperingShows(t *testing.T) {
	for name, c := range map[string]struct {
		tamper func(events, ends *bbolt.Bucket) error
		want   string
	}{
		"edit": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 10)
			e.By = mvm.ParseAsker("cli:nobody")
			return putEvent(b, 10, e)
		}, "entry 10, or the one before it, is not what was written"},
		"edit of the time": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 10)
			e.Time = e.Time.Add(time.Nanosecond)
			return putEvent(b, 10, e)
		}, "entry 10, or"},
		"edit of the last": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 20)
			e.Detail = ""
			return putEvent(b, 20, e)
		}, "entry 20, or"},
		"edit with every hash made anew": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 10)
			e.By = mvm.ParseAsker("cli:nobody")
			if err := putEvent(b, 10, e); err != nil {
				return err
			}
			_, err := rechain(b, 10, 20)
			return err
		}, "the last entry, 20, is another than the sealed one"},
		"edit with hashes and ends made anew": {func(b, ends *bbolt.Bucket) error {
			e := eventAt(b, 10)
			e.By = mvm.ParseAsker("cli:nobody")
			if err := putEvent(b, 10, e); err != nil {
				return err
			}
			head, err := rechain(b, 10, 20)
			return errors.Join(err, forge(ends, func(e *audit.Ends) { e.Head = head }))
		}, "the seal of the log's ends is not that of this host's key"},
		"cut of the middle": {func(b, _ *bbolt.Bucket) error {
			return errors.Join(b.Delete(key(10)), b.Delete(key(11)))
		}, "entries 10 to 11 are missing"},
		"cut of the middle, closed up": {func(b, _ *bbolt.Bucket) error {
			for n := uint64(10); n < 20; n++ {
				if err := putEvent(b, n, eventAt(b, n+1)); err != nil {
					return err
				}
			}
			_, err := rechain(b, 10, 19)
			return errors.Join(err, b.Delete(key(20)), b.SetSequence(19))
		}, "the end is missing: entries 20 to 20"},
		"cut of the end": {func(b, _ *bbolt.Bucket) error {
			return errors.Join(b.Delete(key(19)), b.Delete(key(20)), b.SetSequence(18))
		}, "the end is missing: entries 19 to 20"},
		"cut of the end, with its ends": {func(b, ends *bbolt.Bucket) error {
			head := eventAt(b, 18).Hash
			return errors.Join(b.Delete(key(19)), b.Delete(key(20)), b.SetSequence(18),
				forge(ends, func(e *audit.Ends) { e.Head = audit.Mark{Seq: 18, Hash: head} }))
		}, "the seal of the log's ends"},
		"cut of the beginning": {func(b, _ *bbolt.Bucket) error {
			return errors.Join(b.Delete(key(6)), b.Delete(key(7)))
		}, "the beginning is missing: entries 6 to 7"},
		"cut of the beginning, with its ends": {func(b, ends *bbolt.Bucket) error {
			at := eventAt(b, 7).Hash
			return errors.Join(b.Delete(key(6)), b.Delete(key(7)),
				forge(ends, func(e *audit.Ends) { e.Anchor = audit.Mark{Seq: 7, Hash: at} }))
		}, "the seal of the log's ends"},
		"everything cut": {func(b, _ *bbolt.Bucket) error {
			for n := uint64(6); n <= 20; n++ {
				if err := b.Delete(key(n)); err != nil {
					return err
				}
			}
			return nil
		}, "the end is missing: entries 6 to 20"},
		"reorder": {func(b, _ *bbolt.Bucket) error {
			one, two := eventAt(b, 10), eventAt(b, 11)
			return errors.Join(putEvent(b, 10, two), putEvent(b, 11, one))
		}, "entry 10 says that it is entry 11: it was moved"},
		"reorder with numbers made right": {func(b, _ *bbolt.Bucket) error {
			one, two := eventAt(b, 10), eventAt(b, 11)
			one.Seq, two.Seq = 11, 10
			return errors.Join(putEvent(b, 10, two), putEvent(b, 11, one))
		}, "entry 10, or"},
		"insert behind the end": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 20)
			e.Seq = 21
			e.Hash = audit.Hash(eventAt(b, 20).Hash, e)
			return putEvent(b, 21, e)
		}, "entries 21 to 21 were added behind the log's end"},
		"insert in the middle": {func(b, _ *bbolt.Bucket) error {
			for n := uint64(20); n >= 10; n-- {
				if err := putEvent(b, n+1, eventAt(b, n)); err != nil {
					return err
				}
			}
			_, err := rechain(b, 10, 21)
			return err
		}, "were added behind the log's end"},
		"insert before the beginning": {func(b, _ *bbolt.Bucket) error {
			e := eventAt(b, 6)
			e.Seq = 5
			return putEvent(b, 5, e)
		}, "entry 5 is from before the log's beginning"},
		"unreadable":            {func(b, _ *bbolt.Bucket) error { return b.Put(key(10), []byte("{")) }, "entry 10 can't be read"},
		"unreadable at the end": {func(b, _ *bbolt.Bucket) error { return b.Put(key(20), []byte("{")) }, "entry 20 can't be read"},
		"the ends gone":         {func(_, ends *bbolt.Bucket) error { return ends.Delete([]byte("ends")) }, "the seal of the log's ends"},
	} {
		t.Run(name, func(t *testing.T) {
			path := logOf(t)
			wantVerdict(t, path, "")
			tamper(t, path, c.tamper)
			wantVerdict(t, path, c.want)
			s, err := store.OpenWith(path, sealed())
			if err != nil {
				t.Fatal(err)
			}
			update(t, s, func(tx *store.Tx) error { return appendN(tx, 3) })
			view(t, s, func(tx *store.Tx) error {
				if tx.Check() == nil {
					t.Error("nothing shows any more after the agent has opened the file and written to it")
				}
				return nil
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// wantVerdict looks at a copy of the file; "" wants it intact.
func wantVerdict(t *testing.T, path, want string) {
	t.Helper()
	r, err := store.VerifyFile(path, auditKey, audit.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, b := range r.Breaks {
		text.WriteString(b.What + "\n")
	}
	switch {
	case want == "" && (!r.Intact || r.First != 6 || r.Last != 20 || r.Entries != 15 || !r.SealChecked):
		t.Errorf("got %+v, want it intact from 6 to 20", r)
	case want != "" && r.Intact, !strings.Contains(text.String(), want):
		t.Errorf("got %q, want %q", text.String(), want)
	}
}

// An older copy of the whole file is intact in itself. What was noted down elsewhere
// tells it from the present one.
func TestOlderCopyShowsAgainstWhatWasNotedDown(t *testing.T) {
	path := logOf(t)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenWith(path, sealed())
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 4) })
	if got := s.LastMark().Seq; got != 24 {
		t.Errorf("last event %d, want 24", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	now, err := store.VerifyFile(path, auditKey, audit.Mark{})
	if err != nil || !now.Intact {
		t.Fatalf("%+v, %v", now, err)
	}
	noted, err := audit.ParseMark(now.Head)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := store.VerifyFile(path, auditKey, noted); err != nil || !r.Intact {
		t.Errorf("the file itself: %+v, %v", r, err)
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := store.VerifyFile(path, auditKey, noted)
	if err != nil || r.Intact || !strings.Contains(r.Breaks[0].What, "an older copy was put in place") {
		t.Errorf("an older copy: %+v, %v", r, err)
	}
	s, err = store.OpenWith(path, sealed())
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 9) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = store.VerifyFile(path, auditKey, noted)
	if err != nil || r.Intact || !strings.Contains(r.Breaks[0].What, "entry 24 is another") {
		t.Errorf("an older copy that was written on: %+v, %v", r, err)
	}
}

// While the agent runs, not even an older copy of the log goes unseen.
func TestLogChangedUnderTheAgentShows(t *testing.T) {
	s := openStore(t, sealed())
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 5) })
	var ends []byte
	err := s.Raw(func(tx *bbolt.Tx) error {
		ends = bytes.Clone(tx.Bucket([]byte("audit")).Get([]byte("ends")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 2) })
	err = s.Raw(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("events"))
		return errors.Join(b.Delete(key(6)), b.Delete(key(7)), tx.Bucket([]byte("audit")).Put([]byte("ends"), ends))
	})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 1) })
	view(t, s, func(tx *store.Tx) error {
		r, err := tx.VerifyEvents(audit.Mark{}, nil)
		if r.Intact || !strings.Contains(r.Breaks[0].What, "entries 6 to 7 are missing") {
			t.Errorf("got %+v", r)
		}
		return err
	})
}

// Migration 2 chains the events that are there and keeps all that they say.
func TestMigration2ChainsTheEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.OpenAt(path, sealed(), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("events"))
		for n := uint64(3001); n <= 5000; n++ { // earlier ones were trimmed
			raw := `{"seq":` + strconv.FormatUint(n, 10) + `,"time":"2026-01-02T03:04:05.000000006+02:00","action":"InstanceWoken","tenant":"acme","by":"cli:root","detail":"d"}`
			if err := b.Put(key(n), []byte(raw)); err != nil {
				return err
			}
		}
		return b.SetSequence(5000)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s, err = store.OpenWith(path, sealed())
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 1) })
	view(t, s, func(tx *store.Tx) error {
		all, err := eventsOf(tx, 0, mvm.EventFilter{}, 0)
		if len(all) != 2002 || all[0].Seq != 3001 || all[0].Detail != "d" || all[0].Time.Nanosecond() != 6 || all[2001].Seq != 5002 {
			t.Errorf("%d events, the first %+v", len(all), all[0])
		}
		if all[2000].Action != mvm.AuditBroken || !strings.Contains(all[2000].Detail, "up to 5000") {
			t.Errorf("entry 5001 is %+v, want that nothing vouches for those before", all[2000])
		}
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := store.VerifyFile(path, auditKey, audit.Mark{})
	if err != nil || r.BreakCount != 1 || r.Entries != 2002 || !strings.Contains(r.Breaks[0].What, "up to 5000") {
		t.Errorf("got %+v, %v, want it whole but for what was not chained", r, err)
	}
	if _, err := store.VerifyFile(path+".v1", auditKey, audit.Mark{}); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("the copy from before: got %v, want that it has no chain", err)
	}
}

// Who sets the version back has the log chained and sealed by the agent itself: that
// shows, whether or not what was chained before is taken away first.
func TestDowngradeShows(t *testing.T) {
	for name, change := range map[string]func(tx *bbolt.Tx) error{
		"as it is":      func(*bbolt.Tx) error { return nil },
		"without ends":  func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("audit")) },
		"without a log": func(tx *bbolt.Tx) error { return errors.Join(tx.DeleteBucket([]byte("audit")), emptyEvents(tx)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			s, err := store.OpenWith(path, sealed())
			if err != nil {
				t.Fatal(err)
			}
			update(t, s, func(tx *store.Tx) error {
				return errors.Join(tx.ReserveNetID("acme", 3, time.Now()), appendN(tx, 5))
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tamperFile(t, path, func(tx *bbolt.Tx) error {
				return errors.Join(change(tx), tx.Bucket([]byte("meta")).Put([]byte("schema_version"), []byte(`"1"`)))
			})
			if s, err = store.OpenWith(path, sealed()); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			r, err := store.VerifyFile(path, auditKey, audit.Mark{})
			if err != nil || r.Intact {
				t.Errorf("got %+v, %v, want it broken", r, err)
			}
		})
	}
}

func emptyEvents(tx *bbolt.Tx) error {
	if err := tx.DeleteBucket([]byte("events")); err != nil {
		return err
	}
	_, err := tx.CreateBucket([]byte("events"))
	return err
}

// Text from guests can be anything; the log is intact all the same.
func TestAnyTextCanBeRecorded(t *testing.T) {
	s := openStore(t, sealed())
	for _, text := range []string{"", "\xff\xfe", "a\xc3", "\u2028<&>\x00", strings.Repeat("ä", 5000), "\"\\"} {
		update(t, s, func(tx *store.Tx) error {
			_, err := tx.AppendEvent(mvm.Event{Action: mvm.WakeRefused, Why: text, Detail: text, By: mvm.ParseAsker(text)})
			return err
		})
	}
	view(t, s, func(tx *store.Tx) error {
		all, err := eventsOf(tx, 0, mvm.EventFilter{}, 0)
		for _, e := range all {
			if len(e.Detail) > 5000 {
				t.Errorf("a text of %d bytes is kept", len(e.Detail))
			}
		}
		return errors.Join(err, tx.Check())
	})
}

func TestEventFilter(t *testing.T) {
	s := openStore(t, sealed())
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	update(t, s, func(tx *store.Tx) error {
		for n, act := range []mvm.Action{mvm.InstanceSlept, mvm.InstanceWoken, mvm.InstanceSlept, mvm.PoolBuilt} {
			if _, err := tx.AppendEvent(mvm.Event{Time: at.Add(time.Duration(n) * time.Hour), Action: act}); err != nil {
				return err
			}
		}
		return nil
	})
	for name, c := range map[string]struct {
		f    mvm.EventFilter
		want int
	}{
		"all":        {mvm.EventFilter{}, 4},
		"since":      {mvm.EventFilter{Since: at.Add(time.Hour)}, 3},
		"action":     {mvm.EventFilter{Actions: []mvm.Action{mvm.InstanceSlept}}, 2},
		"two":        {mvm.EventFilter{Actions: []mvm.Action{mvm.InstanceSlept, mvm.PoolBuilt}, Since: at.Add(time.Minute)}, 2},
		"none of it": {mvm.EventFilter{Actions: []mvm.Action{mvm.TenantCreated}}, 0},
	} {
		view(t, s, func(tx *store.Tx) error {
			got, err := eventsOf(tx, 0, c.f, 0)
			tail, err2 := tx.TailEvents(c.f, 10, 0)
			if len(got) != c.want || len(tail) != c.want {
				t.Errorf("%s: %d and %d events, want %d", name, len(got), len(tail), c.want)
			}
			return errors.Join(err, err2)
		})
	}
}
