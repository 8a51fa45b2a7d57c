package wait

import "sync"

// Locks are locks by name, so that one tenant's slow work does not hold up
// another's. The zero value is ready. They may be held for long, across calls of
// guests and drivers: who waits for one waits on a channel, which a simulated clock
// can tell from work.
type Locks struct {
	mu sync.Mutex
	by map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // has a value while somebody holds it
	users int           // who hold it or wait for it
}

// Lock takes the lock of the name and returns what lets go of it.
func (k *Locks) Lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.by == nil {
		k.by = map[string]*keyLock{}
	}
	l := k.by[name]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.by[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.held <- struct{}{}
	return func() {
		<-l.held
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.by, name)
		}
	}
}
