package roster_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm/internal/guest/gateway/roster"
)

// An instance that does not answer is tried again while the first tries wait, each time after
// twice as long, and five times at most: a burst on one that just comes up is not multiplied.
func TestTriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var tries []time.Duration
		began := time.Now()
		h := &host{boot: 1, let: make(chan struct{})}
		close(h.let)
		ctx, cancel := context.WithCancel(t.Context())
		ro := roster.New(ctx, roster.Options{Log: slog.New(slog.DiscardHandler), Host: h, Now: time.Now,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				mu.Lock()
				tries = append(tries, time.Since(began))
				mu.Unlock()
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		ro.Configure("acme", map[string]bool{"workers": true})
		ro.Start()
		defer func() { cancel(); ro.Close(); ro.Wait() }()
		l := lease(t, ro)
		defer l.End()
		began = time.Now()
		short, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if c, err := l.Dial(short, 80); err == nil {
			_ = c.Close()
			t.Error("it has a connection")
		}
		mu.Lock()
		defer mu.Unlock()
		ms := time.Millisecond
		if want := []time.Duration{0, 150 * ms, 450 * ms, 1050 * ms, 2250 * ms}; !slices.Equal(tries, want) {
			t.Errorf("it was tried after %v, want %v", tries, want)
		}
	})
}
