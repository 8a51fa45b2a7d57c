package sys

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WallClock is the time of day, as it is set. A wait ends where somebody sets the
// clock, or the host goes on after a sleep. It asks for the time at no interval.
type WallClock struct{}

// Now is time.Now.
func (WallClock) Now() time.Time { return time.Now() }

// Wait returns when it is later than until (zero: never), when poked gives a value, when the
// clock was set, or when ctx ends.
func (WallClock) Wait(ctx context.Context, poked <-chan struct{}, until time.Time) {
	rang := make(chan struct{})
	if !until.IsZero() {
		timer, err := wallTimer(until)
		if err != nil { // no file descriptor is left: the next wait may have one
			timer = nil
			defer time.AfterFunc(min(max(time.Until(until), 0), time.Minute), func() { close(rang) }).Stop()
		}
		if timer != nil {
			var reads sync.WaitGroup
			reads.Go(func() {
				var b [8]byte
				_, _ = timer.Read(b[:]) // an error says that the clock was set, or that it is closed
				close(rang)
			})
			defer reads.Wait()
			defer timer.Close()
		}
	}
	select {
	case <-rang:
	case <-poked:
	case <-ctx.Done():
	}
}

// wallTimer is a file that can be read at the time, or when the clock is set.
func wallTimer(at time.Time) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "timerfd")
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at.UnixNano(), 1))}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil); err != nil {
		f.Close()
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return f, nil
}
