// Package group has goroutines that come and go, and whose owner waits for them.
package group

import (
	"context"
	"sync"
	"time"
)

// Group joins goroutines that come and go: after Close no more enter, and Wait
// returns when all have left.
type Group struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// Enter counts the caller in; false means that the group is closed.
func (g *Group) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	return true
}

// Leave undoes Enter.
func (g *Group) Leave() { g.wg.Done() }

// Go runs f in a goroutine of the group; false means that the group is closed.
func (g *Group) Go(f func()) bool {
	if !g.Enter() {
		return false
	}
	go func() {
		defer g.Leave()
		f()
	}()
	return true
}

// Close has no more enter.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

// Wait waits until all have left.
func (g *Group) Wait() { g.wg.Wait() }

// Pause waits for d, and reports false when ctx ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
