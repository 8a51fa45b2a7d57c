package session

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"mvm/internal/wait"

	"mvm"
)

// stallLook is the time between two looks whether the VM of a command stands still.
const stallLook = time.Second

// lockedWriter takes the writes of several goroutines in turn.
type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// tellStalls has it said on the command's stderr when its VM stands still, and when it goes
// on. end waits until nothing more is said.
func (s *Sessions) tellStalls(ctx context.Context, id string, cio mvm.ExecIO) (_ mvm.ExecIO, end func()) {
	if cio.Stderr == nil {
		return cio, func() {}
	}
	var mu sync.Mutex
	stderr := lockedWriter{&mu, cio.Stderr}
	cio.Stderr = stderr
	if cio.Stdout != nil {
		cio.Stdout = lockedWriter{&mu, cio.Stdout}
	}
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for last := ""; wait.For(ctx, nil, stallLook) == wait.Over; {
			why := s.opt.Guests.Stalled(id)
			switch {
			case why == last:
				continue
			case why != "":
				fmt.Fprintf(stderr, "mvm: %s\r\n", why) // a terminal may be raw
			default:
				fmt.Fprintf(stderr, "mvm: there is room on the host's disk again: the VM goes on\r\n")
			}
			last = why
		}
	})
	return cio, func() { cancel(); looking.Wait() }
}
