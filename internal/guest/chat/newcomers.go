package chat

import (
	"mvm/internal/ratetable"
	"net/netip"
	"sync"
	"time"

	"mvm"
)

// Bounds of chats that are new, in a channel that is open to everybody: each costs an
// instance.
const (
	newcomerBurst = 20
	newcomerEvery = 6 * time.Second
	maxNewcomers  = 10_000
)

// Newcomers bounds how often a new key is named in a channel. The zero value does not.
type Newcomers struct {
	on bool

	mu    sync.Mutex
	known map[string]bool
	rate  ratetable.Table // of all together
}

// NewNewcomers bounds new keys where the channel is open to everybody and each has an instance.
func NewNewcomers(c mvm.Channel) *Newcomers {
	from := c.To.Selector.From
	return &Newcomers{known: map[string]bool{}, rate: ratetable.Table{Burst: newcomerBurst, Every: newcomerEvery, Max: 1},
		on: c.Open() && (from == mvm.KeyFromChat || from == mvm.KeyFromSender)}
}

// Allow reports whether the key is known or may be new now.
func (n *Newcomers) Allow(key string) bool {
	if !n.on {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[key] {
		return true
	}
	if _, ok := n.rate.Allow(netip.Addr{}, time.Now()); !ok {
		return false
	}
	if len(n.known) >= maxNewcomers {
		clear(n.known)
	}
	n.known[key] = true
	return true
}
