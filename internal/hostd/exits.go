package hostd

import (
	"context"
	"fmt"
	"sync"

	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// errOther says that a VMM is not the process that the caller knew.
var errOther = fmt.Errorf("the VMM is another process: %w", sys.ErrNoProcess)

// maxExits bounds how many ended VMMs are remembered.
const maxExits = 1024

// exits collects the VMMs that this process has started, since only a parent can,
// and remembers how they ended.
type exits struct {
	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	byHint map[vmproc.Hint]*ending
	ended  []vmproc.Hint // oldest first
}

// ending is a VMM that ends some time.
type ending struct {
	p    vmproc.Process
	done chan struct{} // closed when exit is set
	exit exitAnswer
}

func newExits() *exits { return &exits{byHint: map[vmproc.Hint]*ending{}} }

// watch takes the process over.
func (e *exits) watch(p vmproc.Process) vmproc.Hint {
	pid, start := p.ID()
	hint, w := vmproc.Hint{PID: pid, Start: start}, &ending{p: p, done: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byHint[hint] = w
	if e.closed {
		p.Interrupt()
	}
	e.wg.Go(func() {
		code, sig, known, err := p.Wait()
		w.exit = exitAnswer{Code: code, Signal: int(sig), Known: known && err == nil, Refused: p.Refused()}
		_ = p.Close()
		close(w.done)
		e.remember(hint)
	})
	return hint
}

// remember forgets the oldest where there are too many.
func (e *exits) remember(hint vmproc.Hint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = append(e.ended, hint)
	if len(e.ended) > maxExits {
		delete(e.byHint, e.ended[0])
		e.ended = e.ended[1:]
	}
}

// wait waits for the end of the VMM and says how it was; not known for one that was
// not started here, or within ctx does not end.
func (e *exits) wait(ctx context.Context, hint vmproc.Hint) exitAnswer {
	e.mu.Lock()
	w := e.byHint[hint]
	e.mu.Unlock()
	if w == nil {
		return exitAnswer{}
	}
	select {
	case <-w.done:
		return w.exit
	case <-ctx.Done():
		return exitAnswer{}
	}
}

// close lets go of the VMMs, which go on.
func (e *exits) close() {
	e.mu.Lock()
	e.closed = true
	for _, w := range e.byHint {
		select {
		case <-w.done:
		default:
			w.p.Interrupt()
		}
	}
	e.mu.Unlock()
	e.wg.Wait()
}
