package agent

import "sync"

// keyLocks are mutexes by name, so that one tenant's slow work does not hold up
// another's. The zero value is ready.
type keyLocks struct {
	mu sync.Mutex
	by map[string]*keyLock
}

type keyLock struct {
	mu    sync.Mutex
	users int // who hold it or wait for it
}

// lock takes the mutex of the name and returns what lets go of it.
func (k *keyLocks) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.by == nil {
		k.by = map[string]*keyLock{}
	}
	l := k.by[name]
	if l == nil {
		l = &keyLock{}
		k.by[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.by, name)
		}
	}
}
