package reconcile

import (
	"io"
	"maps"
	"time"

	"mvm"
	"mvm/internal/plan"
)

// How long an object is left alone after it failed: base, doubled with every failure,
// at most the cap, and up to a quarter more or less so that many do not come at once.
// What has gone well for stableAfter begins anew.
const (
	backoffBase = time.Second
	backoffCap  = 5 * time.Minute
	stableAfter = 2 * time.Minute
)

// object is an instance, or a pool's image or making of instances, that reconcile
// works on or has failed with.
type object struct {
	at    mvm.Address
	role  mvm.Role
	task  *task // under way; nil: none
	to    mvm.State
	fails int
	retry time.Time // not before, after a failure
	ended time.Time // the last task's end
}

func (o *object) busy() bool { return o.task != nil }

// waits reports that the object failed and its time has not come.
func (o *object) waits(now time.Time) bool { return o.task == nil && o.retry.After(now) }

// troubled reports that the object failed lately. One that nobody had reason to try
// again since, because it is not needed where it was to go, is not.
func (o *object) troubled(now time.Time) bool {
	return o.fails > 0 && (o.busy() || o.waits(now) || now.Sub(o.ended) <= stableAfter)
}

// failed counts a failure and says when the next try is.
func (r *Reconciler) failed(o *object, now time.Time) {
	o.fails++
	o.retry, o.ended = now.Add(r.Backoff(o.fails)), now
}

// Backoff is how long to leave alone what failed so often in a row.
func (r *Reconciler) Backoff(fails int) time.Duration {
	d := backoffCap
	if n := fails - 1; n < 9 {
		d = min(backoffCap, backoffBase<<n)
	}
	var b [1]byte
	if _, err := io.ReadFull(r.opt.Rand, b[:]); err != nil {
		return d
	}
	return d + d/4*time.Duration(int(b[0])-128)/128
}

// Lost counts the end of a VMM that nobody asked for as a failure of its instance, so
// that one that dies as soon as it runs is not started without a pause.
func (r *Reconciler) Lost(i mvm.Instance) {
	if r.every < 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.objects[i.ID]
	if o == nil {
		o = &object{at: i.Address(), role: i.Role}
		r.objects[i.ID] = o
	}
	if now.Sub(i.Changed) > stableAfter {
		o.fails = 0
	}
	o.to = mvm.StateRunning
	r.failed(o, now)
	r.pokeAt(i.Tenant, o.retry)
}

// underWay returns where the tenant's instances are going: by tasks, by tries that
// wait for their time, and by the queues of others. It also says when the next try is
// due, and forgets objects that are well again, or gone.
func (r *Reconciler) underWay(tenant string, there map[string]mvm.Instance, now time.Time) (ways map[string]plan.Way, next time.Time) {
	ways = map[string]plan.Way{}
	for id, req := range r.opt.Queue.Queued() {
		if i, ok := there[id]; ok {
			ways[id] = plan.Way{To: req.Op.Leads(i.State), Runs: req.Op.Leads("") == mvm.StateRunning}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.deferrals, func(_ string, after time.Time) bool { return now.Sub(after) > stableAfter })
	for key, o := range r.objects {
		if o.at.Tenant != tenant {
			continue
		}
		i, ok := there[o.at.Instance]
		switch {
		case o.busy():
			if ok {
				ways[o.at.Instance] = plan.Way{To: o.to, Runs: o.task.Rises()}
			}
			continue
		case o.at.Instance != "" && !ok, !o.waits(now) && now.Sub(o.ended) > stableAfter && r.well(o, i):
			delete(r.objects, key)
			continue
		}
		if !o.waits(now) {
			continue
		}
		if _, queued := ways[o.at.Instance]; ok && !queued {
			ways[o.at.Instance] = plan.Way{To: o.to}
		}
		if next.IsZero() || o.retry.Before(next) {
			next = o.retry
		}
	}
	return ways, next
}

// well reports that the object is where its last task was to bring it.
func (r *Reconciler) well(o *object, i mvm.Instance) bool {
	return o.at.Instance == "" || i.State == o.to || o.fails == 0
}
