package gateway

import (
	"time"
)

// Busy is exported for tests of this package only.
var Busy = busy

// Known counts targets and instances on the roster.
func (r *Router) Known() (targets, instances int) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	return len(r.roster.entries), len(r.roster.workers)
}

// Stuck reports whether some write to an instance has been under way for a while.
func (r *Router) Stuck() bool {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	for _, w := range r.roster.workers {
		for s := range w.streams {
			if len(w.writing()) > 0 && r.roster.mono()-time.Duration(s.last.Load()) > 50*time.Millisecond {
				return true
			}
		}
	}
	return false
}

// Links counts the connections to instances.
func (r *Router) Links() int {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	n := 0
	for _, w := range r.roster.workers {
		n += len(w.conns)
	}
	return n
}

// HeadMemory is how much memory there is for large heads.
func (r *Router) HeadMemory() int { return r.heads.Left() }
