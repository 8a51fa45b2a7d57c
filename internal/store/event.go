package store

import (
	"encoding/binary"
	"slices"

	"mvm"
)

// AppendEvent adds the event to the audit log and returns it with its Seq: one more
// than that of the event before, from 1. Numbers are never given twice.
func (t *Tx) AppendEvent(e mvm.Event) (mvm.Event, error) {
	seq, err := t.bucket(bucketEvents).NextSequence()
	if err != nil {
		return e, mvm.Errorf(mvm.KindInternal, "append event: %w", err)
	}
	e.Seq = seq
	t.appended = true
	return e, t.put(bucketEvents, seqKey(seq), e)
}

// Events returns the events after the number, oldest first, that the filter's
// tenant, pool and instance choose, at most limit (0: all). Tail and Follow of the
// filter are the caller's.
func (t *Tx) Events(after uint64, f mvm.EventFilter, limit int) ([]mvm.Event, error) {
	var out []mvm.Event
	c := t.bucket(bucketEvents).Cursor()
	for k, v := c.Seek(seqKey(after + 1)); k != nil; k, v = c.Next() {
		if limit > 0 && len(out) == limit {
			break
		}
		var e mvm.Event
		if err := decode(bucketEvents, k, v, &e); err != nil {
			return nil, err
		}
		if matches(f, e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// TailEvents returns the last n events that the filter chooses, oldest first.
func (t *Tx) TailEvents(f mvm.EventFilter, n int) ([]mvm.Event, error) {
	var out []mvm.Event
	c := t.bucket(bucketEvents).Cursor()
	for k, v := c.Last(); k != nil && len(out) < n; k, v = c.Prev() {
		var e mvm.Event
		if err := decode(bucketEvents, k, v, &e); err != nil {
			return nil, err
		}
		if matches(f, e) {
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out, nil
}

func matches(f mvm.EventFilter, e mvm.Event) bool {
	return (f.Tenant == "" || f.Tenant == e.Tenant) &&
		(f.Pool == "" || f.Pool == e.Pool) &&
		(f.Instance == "" || f.Instance == e.Instance)
}

// TrimEvents forgets the oldest events so that the last keep numbers stay, at most
// 10,000 of them in one call, and returns how many went.
func (t *Tx) TrimEvents(keep uint64) (int, error) {
	const atOnce = 10_000
	last := t.bucket(bucketEvents).Sequence()
	if last <= keep {
		return 0, nil
	}
	var old [][]byte
	c := t.bucket(bucketEvents).Cursor()
	for k, _ := c.First(); k != nil && len(old) < atOnce && binary.BigEndian.Uint64(k) <= last-keep; k, _ = c.Next() {
		old = append(old, slices.Clone(k))
	}
	for _, k := range old {
		if err := t.delete(bucketEvents, k); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}
