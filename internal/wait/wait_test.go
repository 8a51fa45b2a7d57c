package wait_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm/internal/wait"
)

// Of ends that come together the same one counts every time.
func TestEndsThatComeTogether(t *testing.T) {
	gone := make(chan struct{})
	close(gone)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 100 {
		if end := wait.For(ended, gone, 0); end != wait.Gone {
			t.Fatalf("gone and canceled: %v, want Gone", end)
		}
		if end := wait.For(ended, nil, 0); end != wait.Canceled {
			t.Fatalf("canceled and over: %v, want Canceled", end)
		}
		if err := wait.Done(ended, gone); err != nil {
			t.Fatalf("done and canceled: %v, want done", err)
		}
	}
	if end := wait.For(context.Background(), nil, time.Millisecond); end != wait.Over {
		t.Errorf("after its time: %v, want Over", end)
	}
	if err := wait.Done(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was given up: %v", err)
	}
}

// A lock of one name keeps others of that name waiting and nobody else.
func TestLocksAreByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l wait.Locks
		unlock := l.Lock("a")
		l.Lock("b")()
		var got atomic.Bool
		go func() {
			defer l.Lock("a")()
			got.Store(true)
		}()
		synctest.Wait()
		if got.Load() {
			t.Error("two hold the lock of one name")
		}
		unlock()
		synctest.Wait()
		if !got.Load() {
			t.Error("nobody gets a lock that was let go of")
		}
	})
}

func TestSlotsAndEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		release, err := wait.Slot(t.Context(), slots)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := wait.Slot(ctx, slots); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a slot that another has: %v", err)
		}
		release()
		release()
		if len(slots) != 0 {
			t.Error("a slot that was given back is taken")
		}
		var now, most atomic.Int32
		wait.Each([]int{1, 2, 3, 4, 5}, 2, func(int) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
		})
		if most.Load() != 2 || now.Load() != 0 {
			t.Errorf("%d at once, %d left; want 2 and none", most.Load(), now.Load())
		}
	})
}

func TestEveryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		wait.Every(ctx, time.Second, func() {
			if n++; n == 3 {
				cancel()
			}
		})
		if n != 3 {
			t.Errorf("called %d times, want 3", n)
		}
	})
}

func TestPending(t *testing.T) {
	var p wait.Pending
	p.Set("b", true)
	p.Set("a", true)
	p.Set("c", true)
	p.Set("c", false)
	if got := p.All(); !slices.Equal(got, []string{"a", "b"}) || !p.Has("a") || p.Has("c") {
		t.Errorf("pending: %v", got)
	}
}

// A group's owner waits for what it began, and begins nothing after that.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g wait.Group
		var ended atomic.Bool
		if !g.Go(func() { time.Sleep(time.Second); ended.Store(true) }) {
			t.Fatal("an open group begins nothing")
		}
		g.Close()
		if !ended.Load() {
			t.Error("Close did not wait")
		}
		if g.Go(func() { t.Error("it runs") }) {
			t.Error("a closed group begins something")
		}
	})
}
