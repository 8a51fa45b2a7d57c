package socket

import (
	"errors"
	"io"
	"sync"

	"mvm"
)

// stdinQueue holds the frames that the client sent and the command has not read. It
// is bounded by the window that the client must keep.
type stdinQueue struct {
	mu     sync.Mutex
	more   *sync.Cond
	frames [][]byte
	err    error // once frames is empty, Read returns it
	ack    func() error
}

func newStdinQueue(ack func() error) *stdinQueue {
	q := &stdinQueue{ack: ack}
	q.more = sync.NewCond(&q.mu)
	return q
}

// put adds a frame; a client that sends more than its window breaks the protocol.
// What comes after the end is dropped.
func (q *stdinQueue) put(p []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || len(p) == 0 {
		return nil
	}
	if len(q.frames) >= Window {
		return mvm.Errorf(mvm.KindInvalid, "exec client sent more than %d frames ahead", Window)
	}
	q.frames = append(q.frames, append([]byte(nil), p...))
	q.more.Signal()
	return nil
}

// CloseWithError makes Read return err after what is queued. The first err stays.
func (q *stdinQueue) CloseWithError(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	if !errors.Is(err, io.EOF) { // an abort, not an orderly end: nothing more is read
		q.frames, q.err = nil, err
	}
	q.more.Broadcast()
}

func (q *stdinQueue) reader() io.Reader { return stdinReader{q} }

type stdinReader struct{ q *stdinQueue }

// Read returns queued data, waiting for some.
func (r stdinReader) Read(p []byte) (int, error) {
	q := r.q
	q.mu.Lock()
	for len(q.frames) == 0 && q.err == nil {
		q.more.Wait()
	}
	if len(q.frames) == 0 {
		defer q.mu.Unlock()
		return 0, q.err
	}
	n := copy(p, q.frames[0])
	consumed := n == len(q.frames[0])
	if consumed {
		q.frames = q.frames[1:]
	} else {
		q.frames[0] = q.frames[0][n:]
	}
	q.mu.Unlock()
	if consumed {
		_ = q.ack() // a client that is gone is noticed by the reader of its frames
	}
	return n, nil
}
