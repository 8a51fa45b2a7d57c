package wait

import (
	"maps"
	"slices"
	"sync"
)

// Pending are names, such as ids of instances, whose work waits to be tried again. The
// zero value is ready.
type Pending struct {
	mu sync.Mutex
	by map[string]bool
}

// Set says whether the name's work waits.
func (p *Pending) Set(name string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]bool{}
	}
	if on {
		p.by[name] = true
	} else {
		delete(p.by, name)
	}
}

// Has reports whether the name's work waits.
func (p *Pending) Has(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by[name]
}

// All returns the names whose work waits, sorted.
func (p *Pending) All() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.by))
}
