package reconcile

import "time"

// DueQueue is the queue of tenants.
type DueQueue = dueQueue

// Add puts the key in.
func (q *dueQueue) Add(key string, at time.Time) { q.add(key, at) }

// Take gives out the first key that is due.
func (q *dueQueue) Take(now time.Time) (key string, wait time.Duration) {
	key, wait, _ = q.take(now)
	return key, wait
}

// Rests counts the keys whose rest is remembered.
func (q *dueQueue) Rests() int { return len(q.rests) }

// Done takes back a key.
func (q *dueQueue) Done(key string, notBefore time.Time) { q.done(key, notBefore) }
