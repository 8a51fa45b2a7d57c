package agent

import (
	"sync"

	"mvm"
)

// useCounts count who uses an instance right now, such as commands that run in it.
type useCounts struct {
	mu sync.Mutex
	by map[string]int
}

// add counts one more use, until done is called.
func (u *useCounts) add(id string) (done func()) {
	u.change(id, 1)
	return sync.OnceFunc(func() { u.change(id, -1) })
}

func (u *useCounts) change(id string, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == nil {
		u.by = map[string]int{}
	}
	if u.by[id] += n; u.by[id] == 0 {
		delete(u.by, id)
	}
}

func (u *useCounts) of(id string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.by[id]
}

// errInUse calls off what the policy wants: somebody uses the instance.
var errInUse = mvm.Errorf(mvm.KindState, "the instance is in use")

// callOff ends an operation that the policy wanted of the instance, where one is under
// way and not committed yet.
func (a *Agent) callOff(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.runners[id]; r != nil && len(r.jobs) > 0 && r.jobs[0].req.idle != nil {
		r.jobs[0].cancel(errInUse)
	}
}

// inUse notes that somebody begins to use the instance, which calls off what the
// policy wants of it, until done is called.
func (a *Agent) inUse(u *useCounts, id string) (done func()) {
	done = u.add(id)
	a.callOff(id)
	return done
}
