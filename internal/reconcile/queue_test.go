package reconcile_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"mvm/internal/reconcile"
)

// sortedQueue is the reference: the same queue as a slice that is kept sorted.
type sortedQueue struct {
	due    []dueKey
	active map[string]bool
	rests  map[string]time.Time
}

type dueKey struct {
	key string
	at  time.Time
}

func (q *sortedQueue) Add(key string, at time.Time) {
	if rest := q.rests[key]; at.Before(rest) {
		at = rest
	}
	if n := slices.IndexFunc(q.due, func(d dueKey) bool { return d.key == key }); n >= 0 {
		if !at.Before(q.due[n].at) {
			return
		}
		q.due = slices.Delete(q.due, n, n+1)
	}
	n, _ := slices.BinarySearchFunc(q.due, dueKey{key, at}, func(a, b dueKey) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key))
	})
	q.due = slices.Insert(q.due, n, dueKey{key, at})
}

func (q *sortedQueue) Take(now time.Time) (string, time.Duration) {
	for n, d := range q.due {
		if q.active[d.key] {
			continue
		}
		if d.at.After(now) {
			return "", d.at.Sub(now)
		}
		q.due = slices.Delete(q.due, n, n+1)
		delete(q.rests, d.key)
		q.active[d.key] = true
		return d.key, 0
	}
	return "", 0
}

func (q *sortedQueue) Done(key string, notBefore time.Time) {
	delete(q.active, key)
	q.rests[key] = notBefore
	if n := slices.IndexFunc(q.due, func(d dueKey) bool { return d.key == key }); n >= 0 && q.due[n].at.Before(notBefore) {
		q.due = slices.Delete(q.due, n, n+1)
		q.Add(key, notBefore)
	}
}

func newSorted() *sortedQueue {
	return &sortedQueue{active: map[string]bool{}, rests: map[string]time.Time{}}
}

// The heap gives out what the sorted slice does, whatever is added, taken and given back.
func TestQueueIsThatOfTheReference(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		got, want := &reconcile.DueQueue{}, newSorted()
		now := time.Unix(1000, 0)
		var out []string
		for step := range 300 {
			at := now.Add(time.Duration(r.IntN(20)-5) * time.Second)
			switch n := r.IntN(10); {
			case n < 4:
				key := fmt.Sprint("t", r.IntN(12))
				got.Add(key, at)
				want.Add(key, at)
			case n < 8:
				key, wait := got.Take(now)
				wantKey, wantWait := want.Take(now)
				if key != wantKey || wait != wantWait {
					t.Fatalf("seed %d, step %d: took %q, next in %s; want %q, %s", seed, step, key, wait, wantKey, wantWait)
				}
				if key != "" {
					out = append(out, key)
				}
			case n < 9 && len(out) > 0:
				n := r.IntN(len(out))
				got.Done(out[n], at)
				want.Done(out[n], at)
				out = slices.Delete(out, n, n+1)
			default:
				now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			}
		}
	}
}

// queue is what the benchmark compares.
type queue interface {
	Add(key string, at time.Time)
	Take(now time.Time) (string, time.Duration)
}

// BenchmarkQueue adds 10,000 tenants, as a look at all of them does, and takes each out,
// beside the sorted slice that the queue was before.
func BenchmarkQueue(b *testing.B) {
	const tenants = 10_000
	keys := make([]string, tenants)
	for n := range keys {
		keys[n] = fmt.Sprintf("tenant-%05d", n)
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(tenants, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	measure := func(q queue) (add, take time.Duration) {
		began := time.Now()
		for _, k := range keys {
			q.Add(k, time.Time{})
		}
		added := time.Now()
		for range keys {
			q.Take(added)
		}
		return added.Sub(began), time.Since(added)
	}
	for b.Loop() {
		refAdd, refTake := measure(newSorted())
		add, take := measure(&reconcile.DueQueue{})
		figure := func(name string, v, ref time.Duration) {
			b.Logf("%-28s %9.2f ms  (a sorted slice %9.2f ms, ratio %.3f)", name, v.Seconds()*1e3, ref.Seconds()*1e3, v.Seconds()/ref.Seconds())
		}
		figure("adding 10,000 tenants", add, refAdd)
		figure("taking them out", take, refTake)
		b.ReportMetric(add.Seconds()*1e3, "add-ms")
		b.ReportMetric(refAdd.Seconds()*1e3, "reference-add-ms")
	}
}

// Tenants that come and go leave nothing in the queue; one that rests still does.
func TestRestsOfWhatIsGoneAreForgotten(t *testing.T) {
	var q reconcile.DueQueue
	now := time.Now()
	once := func(key string, notBefore time.Time) {
		q.Add(key, now)
		if got, _ := q.Take(now); got != key {
			t.Fatalf("took %q, want %q", got, key)
		}
		q.Done(key, notBefore)
	}
	rest := now.Add(time.Hour)
	once("rests", rest)
	for n := range 10_000 {
		once(fmt.Sprint("gone-", n), now.Add(-time.Second))
	}
	if n := q.Rests(); n > 200 {
		t.Errorf("the rests of %d keys are remembered", n)
	}
	q.Add("rests", now)
	if got, wait := q.Take(now.Add(time.Minute)); got != "" || wait > time.Hour {
		t.Errorf("took %q, which rests, or waits %v", got, wait)
	}
}
