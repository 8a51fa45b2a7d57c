package ingress

import (
	"sync"
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

// inUse notes that somebody begins to use the instance, which calls off what the
// policy wants of it, until done is called.
func (in *Ingress) inUse(u *useCounts, id string) (done func()) {
	done = u.add(id)
	in.opt.Queue.CallOff(id)
	return done
}

// Exec notes that a command begins in the instance, until done is called.
func (in *Ingress) Exec(id string) (done func()) { return in.inUse(&in.execs, id) }
