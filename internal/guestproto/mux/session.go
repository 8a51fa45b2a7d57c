package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-yamux/v5"

	"mvm"
)

// Session is a set of streams between host and guest. Its methods may be called
// from many goroutines.
type Session struct {
	ys    *yamux.Session
	tally *tally
	in    chan incoming
	done  chan struct{} // closed when the session is over and accept has returned

	mu    sync.Mutex // guards ended, so that no goroutine starts once wg is awaited
	ended bool
	wg    sync.WaitGroup
}

type incoming struct {
	conn *Stream
	port uint32
}

// newSession starts the streams over c. A client opens odd ids, a server even ones.
func newSession(c *sessionConn, client bool) (*Session, error) {
	start := yamux.Server
	if client {
		start = yamux.Client
	}
	ys, err := start(c, yamuxConfig(), nil)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the streams of the guest channel: %w", err)
	}
	s := &Session{ys: ys, tally: c.tally, in: make(chan incoming), done: make(chan struct{})}
	go s.accept()
	return s, nil
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = MaxIncoming
	c.MaxIncomingStreams = MaxIncoming
	c.EnableKeepAlive = false // a paused guest is silent
	c.MeasureRTTInterval = 24 * time.Hour
	c.MaxStreamWindowSize = c.InitialStreamWindowSize // 256 KiB: the bound per stream
	c.MaxMessageSize = chunk
	c.ReadBufSize = 0 // the link has a buffer
	c.LogOutput = io.Discard
	return c
}

// accept reads the port of each new stream, so that one that does not send its
// port holds up nobody.
func (s *Session) accept() {
	defer close(s.done)
	for {
		conn, err := s.ys.AcceptStream()
		if err != nil {
			break
		}
		st := &Stream{conn, s}
		s.run(func() { s.header(st) })
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.ys.Close() // joins yamux's goroutines when it closed itself
	s.wg.Wait()
}

// run calls fn in a goroutine that Done waits for; in the caller's when the
// session is over, where nothing of a stream blocks any more.
func (s *Session) run(fn func()) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		fn()
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		fn()
	}()
}

func (s *Session) header(conn *Stream) {
	var h [4]byte
	conn.SetReadDeadline(time.Now().Add(headerTimeout))
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		_ = conn.Stream.Reset()
		return
	}
	conn.SetReadDeadline(time.Time{})
	select {
	case s.in <- incoming{conn, binary.BigEndian.Uint32(h[:])}:
	case <-s.ys.CloseChan():
		conn.Stream.Close()
	}
}

// Open opens a stream to a port of the other end. It returns before the other end
// has accepted: a refusal shows at the first read. Cancelling ctx afterwards has no
// effect on the stream. KindUnavailable when the session is over or the stream
// can't be opened within ctx.
func (s *Session) Open(ctx context.Context, port uint32) (net.Conn, error) {
	ys, err := s.ys.OpenStream(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open a stream to port %d: %w", port, err)
	}
	conn := &Stream{ys, s}
	s.tally.open(ys.StreamID()) // it says nothing before it is asked
	stop := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = conn.Write(binary.BigEndian.AppendUint32(nil, port))
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Reset()
		return nil, mvm.Errorf(mvm.KindUnavailable, "open a stream to port %d: %w", port, err)
	}
	return conn, nil
}

// Accept returns the next stream that the other end opened, a *Stream, and its
// port. It fails with KindUnavailable once the session is over. The caller must
// accept promptly, and close or Reset what it does not want.
func (s *Session) Accept() (net.Conn, uint32, error) {
	select {
	case in := <-s.in:
		return in.conn, in.port, nil
	case <-s.ys.CloseChan():
		return nil, 0, mvm.Errorf(mvm.KindUnavailable, "accept a stream: the session is over")
	}
}

// Over reports whether the session has ended, or is about to be Done.
func (s *Session) Over() bool { return s.ys.IsClosed() }

// Done is closed when the session is over and nothing of it runs any more. Its
// streams have failed by then.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close ends the session and all its streams, and waits until nothing of it runs.
// On the host it closes the connection; in the guest the port stays open for the
// Server's next session. It is idempotent.
func (s *Session) Close() error {
	s.ys.Close()
	<-s.done
	return nil
}

// Stream is a stream of a session, a net.Conn with half-close. What was written
// before Close or CloseWrite arrives; Reset drops it.
type Stream struct {
	*yamux.Stream
	s *Session
}

// Read is a net.Conn's: os.ErrDeadlineExceeded when the deadline has passed.
func (st *Stream) Read(p []byte) (int, error) {
	n, err := st.Stream.Read(p)
	st.s.tally.read(st.StreamID(), n)
	return n, deadlineError(err)
}

// Write is a net.Conn's: os.ErrDeadlineExceeded when the deadline has passed.
func (st *Stream) Write(p []byte) (int, error) {
	n, err := st.Stream.Write(p)
	return n, deadlineError(err)
}

func deadlineError(err error) error {
	if errors.Is(err, yamux.ErrTimeout) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// closeWait bounds how long Close waits for its place in the queue.
const closeWait = 100 * time.Millisecond

// Close ends both directions. Where the other end does not read (a paused guest,
// its queues full) the notice to it goes out later.
func (st *Stream) Close() error { return st.soon(st.Stream.Close) }

// Reset ends both directions and drops what is under way. It blocks no more than Close.
func (st *Stream) Reset() error { return st.soon(st.Stream.Reset) }

func (st *Stream) soon(fn func() error) error {
	st.s.tally.close(st.StreamID())
	out := make(chan error, 1)
	st.s.run(func() { out <- fn() })
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case err := <-out:
		return err
	case <-t.C:
		return nil
	}
}
