// Package ratetable limits how often each of many sources may do something.
package ratetable

import (
	"net/netip"
	"time"
)

// Table limits how often each source of requests may do something. It is bounded:
// when it is full, new sources share one allowance. It is not safe for concurrent use.
type Table struct {
	Burst int           // at once
	Every time.Duration // one more
	Max   int           // sources

	due map[netip.Prefix]time.Time // when the source's allowance is whole again
}

// Allow takes one of the source's allowance, or says after how long there is one.
func (t *Table) Allow(source netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	if t.due == nil {
		t.due = map[netip.Prefix]time.Time{}
	}
	key := sourceOf(source)
	if _, known := t.due[key]; !known && len(t.due) >= t.Max {
		for k, due := range t.due {
			if !due.After(now) {
				delete(t.due, k)
			}
		}
		if len(t.due) >= t.Max {
			key = netip.Prefix{}
		}
	}
	due := t.due[key]
	if due.Before(now) {
		due = now
	}
	if wait = due.Sub(now) - time.Duration(t.Burst-1)*t.Every; wait > 0 {
		return wait, false
	}
	t.due[key] = due.Add(t.Every)
	return 0, true
}

// Idle reports that every source has its whole allowance: a new table would do as well.
func (t *Table) Idle(now time.Time) bool {
	for _, due := range t.due {
		if due.After(now) {
			return false
		}
	}
	return true
}

// sourceOf is what one client usually has: an IPv4 address, or a /64 of IPv6.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
