package gateway

// Busy is exported for tests of this package only.
var Busy = busy

// Known counts targets and instances on the roster.
func (r *Router) Known() (targets, instances int) {
	s := r.roster.State()
	return s.Targets, s.Instances
}

// Stuck reports whether some write to an instance has been under way for a while.
func (r *Router) Stuck() bool { return r.roster.State().Stuck }

// Links counts the connections to instances.
func (r *Router) Links() int { return r.roster.State().Links }

// HeadMemory is how much memory there is for large heads.
func (r *Router) HeadMemory() int { return r.heads.Left() }
