package gateway

// Exported for tests of this package only.
var (
	KeyOf   = keyOf
	JSONKey = jsonKey
)

// Known counts targets and instances on the roster.
func (r *Router) Known() (targets, instances int) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	return len(r.roster.entries), len(r.roster.workers)
}
