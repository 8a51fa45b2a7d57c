package reconcile

import (
	"cmp"
	"container/heap"
	"context"
	"maps"
	"sync"
	"time"
)

// dueQueue holds keys with the time at which somebody should look at each. A key is in
// it once, at its earliest time, and is given to one at a time. The zero value is ready.
type dueQueue struct {
	mu      sync.Mutex
	due     dueHeap
	active  map[string]*dueKey   // given out and not done, each with when it is due again
	rests   map[string]time.Time // until when a key is not given out again
	kept    int                  // rests that were left by the last prune
	changed chan struct{}        // closed when there may be something to give out
}

// dueKey is a key and its time. One that is given out has no place in the heap.
type dueKey struct {
	key   string
	at    time.Time
	place int  // in the heap
	again bool // of one that is given out: it is due again, at its time
}

// dueHeap is a heap.Interface: the key that is due first is its first.
type dueHeap struct {
	keys []*dueKey
	by   map[string]*dueKey
}

// Len implements heap.Interface.
func (h *dueHeap) Len() int { return len(h.keys) }

// Less implements heap.Interface.
func (h *dueHeap) Less(i, j int) bool {
	a, b := h.keys[i], h.keys[j]
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key)) < 0
}

// Swap implements heap.Interface.
func (h *dueHeap) Swap(i, j int) {
	h.keys[i], h.keys[j] = h.keys[j], h.keys[i]
	h.keys[i].place, h.keys[j].place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	d := x.(*dueKey)
	d.place = len(h.keys)
	h.keys = append(h.keys, d)
	h.by[d.key] = d
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(h.keys) - 1
	d := h.keys[last]
	h.keys[last] = nil
	h.keys = h.keys[:last]
	delete(h.by, d.key)
	return d
}

// add puts the key in, or forward when it is there for later.
func (q *dueQueue) add(key string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if rest := q.rests[key]; at.Before(rest) {
		at = rest
	}
	if d := q.active[key]; d != nil {
		if !d.again || at.Before(d.at) {
			d.again, d.at = true, at
		}
		return
	}
	q.put(key, at)
}

// put has the key in the heap at the time, or before. q.mu is held.
func (q *dueQueue) put(key string, at time.Time) {
	d := q.due.by[key]
	switch {
	case d == nil:
		if q.due.by == nil {
			q.due.by = map[string]*dueKey{}
		}
		heap.Push(&q.due, &dueKey{key: key, at: at})
	case at.Before(d.at):
		d.at = at
		heap.Fix(&q.due, d.place)
	default:
		return
	}
	q.tell()
}

// tell wakes everyone who waits in next.
func (q *dueQueue) tell() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// next waits for a key whose time has come and gives it out; false when ctx ends. It
// calls woken before each look.
func (q *dueQueue) next(ctx context.Context, woken func()) (string, bool) {
	for ctx.Err() == nil { // an end that is there comes before what is due
		woken()
		key, wait, changed := q.take(time.Now())
		if key != "" {
			return key, true
		}
		var due <-chan time.Time
		stop := func() bool { return true }
		if wait > 0 {
			t := time.NewTimer(wait)
			due, stop = t.C, t.Stop
		}
		select {
		case <-due:
		case <-changed:
		case <-ctx.Done():
		}
		stop()
	}
	return "", false
}

// take gives out the first key that is due. Where none is, it says how long the next
// takes (0: there is none) and what to watch meanwhile.
func (q *dueQueue) take(now time.Time) (key string, wait time.Duration, changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due.keys) > 0 {
		first := q.due.keys[0]
		if !first.at.After(now) {
			heap.Pop(&q.due)
			if q.active == nil {
				q.active, q.rests = map[string]*dueKey{}, map[string]time.Time{}
			}
			delete(q.rests, first.key)
			q.active[first.key] = first
			return first.key, 0, nil
		}
		wait = first.at.Sub(now)
	}
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return "", wait, q.changed
}

// done takes back a key that next gave. It is not given again before the time.
func (q *dueQueue) done(key string, notBefore time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.active[key]
	delete(q.active, key)
	q.rests[key] = notBefore
	q.prune()
	if d.again {
		at := d.at
		if at.Before(notBefore) {
			at = notBefore
		}
		q.put(key, at)
	}
}

// restsKept are more rests than are looked through for what has passed.
const restsKept = 64

// prune forgets rests that have passed, of keys that nobody asks for any more: tenants that
// are gone. Each look takes as long as there are rests, and comes when they have doubled.
// q.mu is held.
func (q *dueQueue) prune() {
	if len(q.rests) <= max(restsKept, 2*q.kept) {
		return
	}
	now := time.Now()
	maps.DeleteFunc(q.rests, func(_ string, until time.Time) bool { return !until.After(now) })
	q.kept = len(q.rests)
}
