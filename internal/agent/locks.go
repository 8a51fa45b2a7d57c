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

// nameSet holds names for as long as somebody has them in it. The zero value is ready.
type nameSet struct {
	mu sync.Mutex
	n  map[string]int
}

// add puts the name in and returns what takes it out.
func (s *nameSet) add(name string) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == nil {
		s.n = map[string]int{}
	}
	s.n[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.n[name]--; s.n[name] == 0 {
			delete(s.n, name)
		}
	}
}

func (s *nameSet) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[name] > 0
}
