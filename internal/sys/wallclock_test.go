package sys_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
)

// waiting waits beside the test.
func waiting(ctx context.Context, poked chan struct{}, until time.Time) <-chan time.Time {
	done := make(chan time.Time, 1)
	go func() {
		sys.WallClock{}.Wait(ctx, poked, until)
		done <- time.Now()
	}()
	return done
}

func TestWallClockWaits(t *testing.T) {
	ctx := t.Context()
	at := time.Now().Add(50 * time.Millisecond)
	if end := <-waiting(ctx, nil, at); end.Before(at) {
		t.Errorf("it ended %s early", at.Sub(end))
	}
	<-waiting(ctx, nil, time.Now().Add(-time.Hour))
	<-waiting(ctx, nil, time.Unix(0, 0))
	poked := make(chan struct{}, 1)
	for _, until := range []time.Time{{}, time.Now().Add(time.Hour)} {
		poked <- struct{}{}
		<-waiting(ctx, poked, until)
	}
	for _, until := range []time.Time{{}, time.Now().Add(time.Hour)} {
		ctx, cancel := context.WithCancel(ctx)
		done := waiting(ctx, nil, until)
		select {
		case <-done:
			t.Error("it did not wait")
		case <-time.After(20 * time.Millisecond):
		}
		cancel()
		<-done
	}
}

// TestWallClockIsSet sets the clock by a nanosecond.
func TestWallClockIsSet(t *testing.T) {
	done := waiting(t.Context(), nil, time.Now().Add(time.Hour))
	const setOffset, nano = 0x0100, 0x2000
	for {
		select {
		case <-done:
			return
		case <-time.After(10 * time.Millisecond): // it may not wait yet
		}
		_, err := unix.Adjtimex(&unix.Timex{Modes: setOffset | nano, Time: unix.Timeval{Usec: 1}})
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to set the clock")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
