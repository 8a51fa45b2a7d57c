package store

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"mvm"
	"mvm/internal/audit"
)

// maxScan bounds how many events one call of Events looks at.
const maxScan = 20_000

// Events returns the events after the number, oldest first, that the filter chooses,
// at most limit (0: all), and the number up to which it has looked: where that is less
// than the log's last there may be more. Tail, After and Follow of the filter are the
// caller's.
func (t *Tx) Events(after uint64, f mvm.EventFilter, limit int) (out []mvm.Event, looked uint64, err error) {
	looked = after
	c := t.bucket(bucketEvents).Cursor()
	n := 0
	for k, v := c.Seek(seqKey(after + 1)); k != nil && n < maxScan && (limit == 0 || len(out) < limit); k, v = c.Next() {
		e, err := decodeAs[eventRecord](bucketEvents, k, v)
		if err != nil {
			return nil, looked, err
		}
		if matches(f, e) {
			out = append(out, e)
		}
		looked = binary.BigEndian.Uint64(k)
		n++
	}
	return out, looked, nil
}

// Back looks from the event with the number after backwards, at most at maxScan
// events, for n that the filter chooses. It returns how many it found, and the number
// of the event before the last that it looked at: 0 at the beginning of the log.
func (t *Tx) Back(after uint64, f mvm.EventFilter, n int) (before uint64, found int, err error) {
	c := t.bucket(bucketEvents).Cursor()
	k, v := c.Last()
	if after < math.MaxUint64 {
		if k, v = c.Seek(seqKey(after)); k == nil || binary.BigEndian.Uint64(k) > after {
			k, v = c.Prev()
		}
	}
	for looked := 0; k != nil && found < n; k, v = c.Prev() {
		if looked++; looked > maxScan {
			return binary.BigEndian.Uint64(k), found, nil
		}
		e, err := decodeAs[eventRecord](bucketEvents, k, v)
		if err != nil {
			return 0, found, err
		}
		if matches(f, e) {
			found++
		}
		before = binary.BigEndian.Uint64(k) - 1
	}
	if k == nil && found < n {
		before = 0
	}
	return before, found, nil
}

// TailEvents returns the last n events that the filter chooses, oldest first. It looks
// at the last look events only (0: all).
func (t *Tx) TailEvents(f mvm.EventFilter, n, look int) ([]mvm.Event, error) {
	var out []mvm.Event
	looked := 0
	c := t.bucket(bucketEvents).Cursor()
	for k, v := c.Last(); k != nil && len(out) < n && (look == 0 || looked < look); k, v = c.Prev() {
		looked++
		e, err := decodeAs[eventRecord](bucketEvents, k, v)
		if err != nil {
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
		(f.Instance == "" || f.Instance == e.Instance) &&
		(len(f.Actions) == 0 || slices.Contains(f.Actions, e.Action)) &&
		!e.Time.Before(f.Since)
}

// TrimEvents forgets the oldest events: those from before the time, and those beyond
// the last keep ones, at most 10,000 in one call. It stops at the first that is to
// stay, and returns how many went and how many of them for want of room.
func (t *Tx) TrimEvents(before time.Time, keep uint64) (gone, early int, err error) {
	const atOnce = 10_000
	ends, last, err := t.ends()
	if err != nil {
		return 0, 0, err
	}
	var old [][]byte
	anchor := ends.Anchor
	c := t.bucket(bucketEvents).Cursor()
	for k, v := c.First(); k != nil && len(old) < atOnce; k, v = c.Next() {
		e, _ := decodeAs[eventRecord](bucketEvents, k, v) // one that can't be read is as old as can be
		seq := binary.BigEndian.Uint64(k)
		if !e.Time.Before(before) {
			if last.Seq-seq < keep {
				break
			}
			early++
		}
		old = append(old, slices.Clone(k))
		anchor = audit.Mark{Seq: seq, Hash: e.Hash}
	}
	if len(old) == 0 {
		return 0, 0, nil
	}
	for _, k := range old {
		if err := t.delete(bucketEvents, k); err != nil {
			return 0, 0, err
		}
	}
	log, err := t.chain()
	if err != nil {
		return 0, 0, err
	}
	log.Anchor = anchor
	return len(old), early, nil
}
