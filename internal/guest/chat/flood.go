package chat

import (
	"cmp"
	"sync"

	"mvm"
)

// maxFlood is how many messages wait in all channels of a gateway together, by default, and
// maxTold of how many chats it is known during a flood that they were told of it.
const (
	maxFlood = 10_000
	maxTold  = 1000
)

// Flood bounds the messages that wait in all channels of a gateway, which are those of a
// tenant. Its methods may be called concurrently; those of nil bound nothing.
type Flood struct {
	most int

	mu      sync.Mutex
	waiting int
	told    map[string]bool // chats that know of it, by channel; nil: there is no flood
}

// NewFlood bounds to so many; 0: 10,000.
func NewFlood(most int) *Flood { return &Flood{most: cmp.Or(most, maxFlood)} }

// Room reports whether n more may wait. KindQuota: they may not.
func (f *Flood) Room(n int) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting+n <= f.most {
		return nil
	}
	return mvm.Errorf(mvm.KindQuota, "take a message: %d messages of all channels wait already", f.waiting).
		WithFix("see why they are not delivered with: mvm why of the gateway, or mvm inbox list TENANT")
}

// add counts messages that wait, or with -1 one that does not any more.
func (f *Flood) add(n int) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting += n
	if f.waiting <= f.most/2 {
		f.told = nil // it is over
	}
}

// tell reports whether the chat is to be told, which it is once in a flood.
func (f *Flood) tell(chat string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.told == nil {
		f.told = map[string]bool{}
	}
	if f.told[chat] || len(f.told) >= maxTold {
		return false
	}
	f.told[chat] = true
	return true
}
