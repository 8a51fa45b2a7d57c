package agent

import "sync"

// each calls fn for every one of the values, for at most n at once, and waits for all.
func each[T any](all []T, n int, fn func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, n))
	for _, v := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(v)
		})
	}
	wg.Wait()
}
