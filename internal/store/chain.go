package store

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/audit"
)

// keyEnds is where the ends of the audit log are, in the bucket audit.
const keyEnds = "ends"

// byStore is who asks for the events that the store adds by itself.
func byStore() mvm.Asker { return mvm.Asker{Kind: mvm.AskerAgent} }

// ends reads the ends of the log as the file has them, and the last entry.
func (t *Tx) ends() (e audit.Ends, last audit.Mark, err error) {
	if _, err := t.get(bucketAudit, []byte(keyEnds), &e); err != nil {
		return e, last, err
	}
	if k, v := t.bucket(bucketEvents).Cursor().Last(); k != nil {
		ev, _ := decodeAs[eventRecord](bucketEvents, k, v) // one that can't be read has no hash, and shows
		return e, audit.Mark{Seq: binary.BigEndian.Uint64(k), Hash: ev.Hash}, nil
	}
	return e, e.Anchor, nil
}

// mismatch says what is wrong with the ends of the log: "" when nothing is. known are
// the ends as this process wrote them last, zero for the first time.
func (s *Store) mismatch(e audit.Ends, last, known audit.Mark) string {
	switch {
	case !e.Sealed(s.opts.AuditKey):
		return "the seal of the log's ends is not that of this host's key"
	case last != e.Head:
		return fmt.Sprintf("the log ends with entry %d, and its seal says %d", last.Seq, e.Head.Seq)
	case known != audit.Mark{} && known != e.Head:
		return fmt.Sprintf("the log ended with entry %d, and now with %d", known.Seq, e.Head.Seq)
	}
	return ""
}

// chain returns the ends to go on from. What is wrong with them is in the log from
// then on, so that going on does not heal what somebody has done to it.
func (t *Tx) chain() (*audit.Ends, error) {
	if t.log != nil {
		return t.log, nil
	}
	e, last, err := t.ends()
	if err != nil {
		return nil, err
	}
	wrong := t.s.mismatch(e, last, t.s.head)
	t.log = &e
	if wrong == "" {
		return t.log, nil
	}
	seq := max(last.Seq, e.Head.Seq, t.s.head.Seq)
	e.Head = audit.Mark{Seq: seq, Hash: last.Hash}
	_, err = t.AppendEvent(mvm.Event{Time: time.Now(), Action: mvm.AuditBroken, By: byStore(), Detail: wrong})
	return t.log, err
}

// AppendEvent adds the event to the audit log and returns it with its Seq, one more
// than that of the event before, from 1, and its Hash. Numbers are never given twice.
func (t *Tx) AppendEvent(e mvm.Event) (mvm.Event, error) {
	ends, err := t.chain()
	if err != nil {
		return e, err
	}
	e = plain(e)
	e.Seq = ends.Head.Seq + 1
	e.Hash = audit.Hash(ends.Head.Hash, e)
	ends.Head = audit.Mark{Seq: e.Seq, Hash: e.Hash}
	t.appended = true
	return e, t.put(bucketEvents, seqKey(e.Seq), recordOfEvent(e))
}

// maxEventText bounds each text of an event; some come from guests.
const maxEventText = 4 << 10

// plain is the event as it is read again: text that JSON can hold, of bounded length.
func plain(e mvm.Event) mvm.Event {
	e.Time = e.Time.Round(0)
	by := e.By.String()
	for _, s := range []*string{(*string)(&e.Action), &e.Tenant, &e.Pool, &e.Instance, &by, &e.Why, &e.Detail, &e.Request} {
		if len(*s) > maxEventText {
			*s = (*s)[:maxEventText] + "…"
		}
		*s = strings.ToValidUTF8(*s, "\uFFFD")
	}
	e.By = mvm.ParseAsker(by)
	return e
}

// sealChain writes the ends of the log that the transaction has changed.
func (t *Tx) sealChain() error {
	if t.log == nil {
		return nil
	}
	t.log.Sign(t.s.opts.AuditKey)
	return t.put(bucketAudit, []byte(keyEnds), t.log)
}

// openChain looks at the ends of the log once, before anything is added.
func (s *Store) openChain() error {
	var wrong string
	err := s.View(func(tx *Tx) error {
		e, last, err := tx.ends()
		wrong, s.head = s.mismatch(e, last, audit.Mark{}), e.Head
		return err
	})
	if err != nil || wrong == "" {
		return err
	}
	s.head = audit.Mark{}
	return s.Update(func(tx *Tx) error { _, err := tx.chain(); return err })
}

// LastMark names the audit log's last entry.
func (s *Store) LastMark() audit.Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// VerifyEvents follows the audit log from its first entry to its last. expect, where
// it is not zero, is an entry that somebody noted down. Its time grows with the log,
// its memory does not. It is the caller's to stop it by an error from each, which may
// be nil.
func (t *Tx) VerifyEvents(expect audit.Mark, each func() error) (mvm.AuditReport, error) {
	ends, _, err := t.ends()
	if err != nil {
		return mvm.AuditReport{}, err
	}
	if t.log != nil { // this transaction has changed it
		ends = *t.log
		ends.Sign(t.s.opts.AuditKey)
	}
	v := audit.NewVerifier(ends, t.s.opts.AuditKey, expect)
	err = t.each(bucketEvents, "", func(key, raw []byte) error {
		e, err := decodeAs[eventRecord](bucketEvents, key, raw)
		if err != nil {
			v.Unreadable(binary.BigEndian.Uint64(key))
			return nil
		}
		v.Entry(binary.BigEndian.Uint64(key), e)
		if each != nil {
			return each()
		}
		return nil
	})
	return v.Report(), err
}

// neverChained is what the log says of itself from the moment it is chained. A file
// that was used before has it, whatever it says of its version: who set that back to
// have a changed log chained and sealed anew is seen by it.
const neverChained = "it was not chained until now: nothing vouches for the entries up to %d"

// chainEvents is version 2: every event has a hash, and the ends of the log are kept.
func (s *Store) chainEvents(tx *bbolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists([]byte(bucketAudit)); err != nil {
		return fmt.Errorf("make bucket %s: %w", bucketAudit, err)
	}
	t := &Tx{b: tx, s: s}
	event, _ := t.bucket(bucketEvents).Cursor().First()
	tenant, _ := t.bucket(bucketNetIDs).Cursor().First() // which are kept for good
	used := event != nil || tenant != nil
	if !t.has(bucketAudit, keyEnds) {
		ends, err := t.hashEvents()
		if err != nil {
			return err
		}
		t.log = &ends
	}
	if log, err := t.chain(); err != nil {
		return err
	} else if used {
		e := mvm.Event{Time: time.Now(), Action: mvm.AuditBroken, By: byStore(), Detail: fmt.Sprintf(neverChained, log.Head.Seq)}
		if _, err := t.AppendEvent(e); err != nil {
			return err
		}
	}
	return t.sealChain()
}

// hashEvents gives every event its hash, and returns the ends of the log.
func (t *Tx) hashEvents() (ends audit.Ends, err error) {
	seq := t.bucket(bucketEvents).Sequence()
	c := t.bucket(bucketEvents).Cursor()
	if k, _ := c.First(); k != nil {
		seq = binary.BigEndian.Uint64(k) - 1
	}
	ends.Anchor.Seq, ends.Head.Seq = seq, seq
	for k, raw := c.First(); k != nil; k, raw = c.Next() {
		e, err := decodeAs[eventRecord](bucketEvents, k, raw)
		if err != nil {
			return ends, err
		}
		e.Hash = audit.Hash(ends.Head.Hash, e)
		ends.Head = audit.Mark{Seq: binary.BigEndian.Uint64(k), Hash: e.Hash}
		if err := t.put(bucketEvents, k, recordOfEvent(e)); err != nil {
			return ends, err
		}
		c.Seek(k) // a write ends what the cursor knows
	}
	return ends, nil
}
