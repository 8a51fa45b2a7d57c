package wait

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Each calls fn for every one of the values, for at most n at once, and waits for all.
func Each[T any](all []T, n int, fn func(T)) {
	var g errgroup.Group
	g.SetLimit(max(1, n))
	for _, v := range all {
		g.Go(func() error {
			fn(v)
			return nil
		})
	}
	_ = g.Wait() // there is none
}

// Slot waits for one of the slots, each a value that fits into the channel. It returns
// what gives the slot back, which may be called twice.
func Slot(ctx context.Context, slots chan struct{}) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case slots <- struct{}{}:
		var once sync.Once
		return func() { once.Do(func() { <-slots }) }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
