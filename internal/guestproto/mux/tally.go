package mux

import (
	"encoding/binary"
	"sync"
	"time"
)

// tallyWait bounds how long a session that has lost its other end waits for a stream to be
// read on.
const tallyWait = 200 * time.Millisecond

// tally counts what came for each stream and was not read yet. yamux drops that when the
// connection ends, and the last words before a guest's death are those that matter: so
// the end is held back until they are read.
type tally struct {
	head [12]byte // of a frame of yamux: version, type, flags, stream, length
	have int      // bytes of it
	data int      // bytes that follow it as data

	mu     sync.Mutex
	unread map[uint32]int // by stream that this end has opened and not closed
	all    int
	less   chan struct{} // closed and replaced when there is less
}

func newTally() *tally { return &tally{unread: map[uint32]int{}, less: make(chan struct{})} }

// came counts bytes of the connection. One goroutine calls it.
func (t *tally) came(p []byte) {
	for len(p) > 0 {
		if t.data > 0 {
			n := min(t.data, len(p))
			t.add(binary.BigEndian.Uint32(t.head[4:]), n)
			t.data -= n
			p = p[n:]
			continue
		}
		n := copy(t.head[t.have:], p)
		p = p[n:]
		if t.have += n; t.have < len(t.head) {
			return
		}
		t.have = 0
		if t.head[1] == 0 { // data
			t.data = int(binary.BigEndian.Uint32(t.head[8:]))
		}
	}
}

func (t *tally) add(stream uint32, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.unread[stream]; open { // the other end makes up numbers
		t.unread[stream] += n
		t.all += n
	}
}

// open has the stream counted from now on.
func (t *tally) open(stream uint32) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unread[stream] = 0
}

// read counts that n bytes of the stream were read.
func (t *tally) read(stream uint32, n int) {
	if t == nil || n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.take(stream, min(n, t.unread[stream]))
}

// close ends the counting of a stream: no more of it will be read.
func (t *tally) close(stream uint32) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.take(stream, t.unread[stream])
	delete(t.unread, stream)
}

// take takes n from what is unread. t.mu is held.
func (t *tally) take(stream uint32, n int) {
	if n == 0 {
		return
	}
	t.all -= n
	t.unread[stream] -= n
	close(t.less)
	t.less = make(chan struct{})
}

// drain waits until all that came is read, nobody reads on, or over is closed.
func (t *tally) drain(over <-chan struct{}) {
	pause := time.NewTimer(tallyWait)
	defer pause.Stop()
	for {
		t.mu.Lock()
		all, less := t.all, t.less
		t.mu.Unlock()
		if all == 0 {
			return
		}
		select {
		case <-less:
			pause.Reset(tallyWait)
		case <-pause.C:
			return
		case <-over:
			return
		}
	}
}
