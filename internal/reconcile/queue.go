package reconcile

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// dueQueue holds keys with the time at which somebody should look at each. A key is in
// it once, at its earliest time, and is given to one at a time. The zero value is ready.
type dueQueue struct {
	mu      sync.Mutex
	due     []dueKey             // sorted by time, then by key
	active  map[string]bool      // given out and not done
	rests   map[string]time.Time // until when a key is not given out again
	changed chan struct{}        // closed at the next change
}

type dueKey struct {
	key string
	at  time.Time
}

func (d dueKey) compare(o dueKey) int { return cmp.Or(d.at.Compare(o.at), cmp.Compare(d.key, o.key)) }

// add puts the key in, or forward when it is there for later.
func (q *dueQueue) add(key string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(key, at)
}

func (q *dueQueue) addLocked(key string, at time.Time) {
	if rest := q.rests[key]; at.Before(rest) {
		at = rest
	}
	if n := slices.IndexFunc(q.due, func(d dueKey) bool { return d.key == key }); n >= 0 {
		if !at.Before(q.due[n].at) {
			return
		}
		q.due = slices.Delete(q.due, n, n+1)
	}
	q.insert(dueKey{key, at})
}

func (q *dueQueue) insert(d dueKey) {
	n, _ := slices.BinarySearchFunc(q.due, d, dueKey.compare)
	q.due = slices.Insert(q.due, n, d)
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
	for n, d := range q.due {
		if q.active[d.key] {
			continue
		}
		if d.at.After(now) {
			wait = d.at.Sub(now)
			break
		}
		q.due = slices.Delete(q.due, n, n+1)
		if q.active == nil {
			q.active, q.rests = map[string]bool{}, map[string]time.Time{}
		}
		delete(q.rests, d.key)
		q.active[d.key] = true
		return d.key, 0, nil
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
	delete(q.active, key)
	q.rests[key] = notBefore
	if n := slices.IndexFunc(q.due, func(d dueKey) bool { return d.key == key }); n >= 0 && q.due[n].at.Before(notBefore) {
		q.due = slices.Delete(q.due, n, n+1)
		q.addLocked(key, notBefore)
	}
	q.tell()
}
