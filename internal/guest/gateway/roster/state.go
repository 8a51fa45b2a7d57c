package roster

import "time"

// State is what a roster has at one time.
type State struct {
	Targets, Instances, Links int
	Stuck                     bool // a write to an instance has been under way for a while
}

// State looks at all that the roster has.
func (ro *Roster) State() State {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	st := State{Targets: len(ro.entries), Instances: len(ro.workers)}
	for _, w := range ro.workers {
		st.Links += len(w.conns)
		for s := range w.streams {
			if len(w.writing()) > 0 && ro.mono()-time.Duration(s.last.Load()) > 50*time.Millisecond {
				st.Stuck = true
			}
		}
	}
	return st
}
