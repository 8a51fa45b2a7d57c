package group_test

import (
	"context"
	"testing"
	"time"

	"mvm/internal/guest/gateway/group"
)

// TestGroup: who waits, waits for all that was begun; after the end nothing begins.
func TestGroup(t *testing.T) {
	var g group.Group
	let, done := make(chan struct{}), make(chan struct{})
	if !g.Go(func() { <-let }) || !g.Enter() {
		t.Fatal("an open group refuses")
	}
	g.Close()
	if g.Enter() || g.Go(func() { t.Error("it runs") }) {
		t.Error("a closed group takes more")
	}
	go func() {
		defer close(done)
		g.Wait()
	}()
	close(let)
	select {
	case <-done:
		t.Error("one is still in, and nobody waits for it")
	case <-time.After(20 * time.Millisecond):
	}
	g.Leave()
	<-done
}

// TestPause ends with its context.
func TestPause(t *testing.T) {
	if !group.Pause(t.Context(), time.Nanosecond) {
		t.Error("a pause was cut short")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if group.Pause(ctx, time.Hour) {
		t.Error("a pause outlasts its context")
	}
}
