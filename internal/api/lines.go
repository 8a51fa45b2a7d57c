package api

import (
	"encoding/json"
	"mvm/internal/api/socket"
	"mvm/internal/api/wire"
	"net/http"
	"sync"
	"time"

	"mvm"
)

// sink takes the lines of a stream.
type sink interface {
	write(v any) error
	end(last any)
}

// messages sends each line as a message of a WebSocket.
type messages struct{ out *socket.Texts }

func (t messages) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "encode line of stream: %w", err)
	}
	return t.out.Send(b)
}

// end sends the last line, and the WebSocket's end.
func (t messages) end(last any) {
	_ = t.write(last)
	t.out.Close()
}

// lines writes an NDJSON stream. Progress never holds up the work that it is about:
// it goes through a queue, and when the client reads too slowly lines are dropped.
type lines struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration // of one line
	queue   chan mvm.Progress
	idle    chan struct{} // closed when the queue's writer is done

	mu    sync.Mutex
	err   error
	ended bool
}

const progressQueue = 64

// newLines sends the header and begins; end must be called.
func newLines(w http.ResponseWriter, timeout time.Duration) *lines {
	l := &lines{w: w, rc: http.NewResponseController(w), timeout: timeout, queue: make(chan mvm.Progress, progressQueue), idle: make(chan struct{})}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	l.bound()
	_ = l.rc.Flush()
	l.unbound()
	go func() {
		defer close(l.idle)
		for p := range l.queue {
			said := wire.Progress{}.Of(p)
			_ = l.write(line[none]{Progress: &said})
		}
	}()
	return l
}

// progress queues a line, or drops it when the queue is full or the stream at its end.
func (l *lines) progress(p mvm.Progress) {
	l.mu.Lock()
	ended := l.ended
	if !ended {
		select {
		case l.queue <- p:
		default:
		}
	}
	l.mu.Unlock()
}

// write sends one line at once. After an error every further one fails alike.
func (l *lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "encode line of stream: %w", err)
	}
	if l.err != nil {
		return l.err
	}
	l.bound()
	if _, err = l.w.Write(append(b, '\n')); err == nil {
		err = l.rc.Flush()
	}
	if err != nil {
		l.err = mvm.Errorf(mvm.KindCanceled, "client reads no more: %w", err)
		return l.err
	}
	l.unbound()
	return nil
}

// bound gives the client until the timeout to take what is written.
func (l *lines) bound() { _ = l.rc.SetWriteDeadline(time.Now().Add(l.timeout)) }

// unbound lets the stream be quiet for as long as there is nothing to write: HTTP/2 ends
// it at its deadline whether or not something is.
func (l *lines) unbound() { _ = l.rc.SetWriteDeadline(time.Time{}) }

// end sends what is queued and then the last line.
func (l *lines) end(last any) {
	l.mu.Lock()
	l.ended = true
	close(l.queue)
	l.mu.Unlock()
	<-l.idle
	_ = l.write(last)
}
