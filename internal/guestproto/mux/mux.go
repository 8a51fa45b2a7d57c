// Package mux carries many streams over one raw byte stream between host and
// guest, the virtio-serial port "mvm.0". Both sides import it.
//
// The raw stream has no notion of a connection: it may lose bytes whenever one of
// the two ends goes away (an agent killed in the middle of a write, a guest agent
// restarted), and a snapshot restored under a new host carries a live session's
// state in the guest and half-written bytes in the queues. So:
//
//   - The link marks bytes such that a control record is found wherever the stream
//     was cut, and data can never look like one.
//   - Every connect of the host begins with a record Open and a fresh random nonce.
//     The guest ends whatever session it had, answers Accept with that nonce, and
//     both start a new yamux session; everything before is skipped by both.
//   - A guest end that starts, or lost its session, says Hello: a host that thinks
//     it has a session connects anew, one that waits for an answer asks again at
//     once. So either side may start first.
//
// No message is ever sent to find out whether the other end lives: a paused guest
// is just silent and its session goes on when it resumes. Waiting callers are
// bounded by their own contexts and deadlines.
//
// Bounds: at most MaxIncoming streams that the other end opened, at most 256 KiB
// buffered per stream; more streams are reset at once. A side that does not read
// stops the other by back-pressure, never by memory.
//
// Each stream begins with the port, 4 bytes big-endian, sent by its opener.
package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-yamux/v5"

	"mvm"
)

// MaxIncoming bounds the streams of a session that the other end opened.
const MaxIncoming = 64

// headerTimeout bounds the time from a stream's start to its port.
const headerTimeout = 30 * time.Second

// ErrHostAway is returned by Port.Read when no host is connected to the port. The
// next Read waits for one.
var ErrHostAway = errors.New("mux: no host is connected")

var (
	errReplaced = errors.New("mux: the other end began a new session")
	errAgain    = errors.New("mux: the other end lost the session")
)

// Session is a set of streams between host and guest. Its methods may be called
// from many goroutines.
type Session struct {
	ys   *yamux.Session
	in   chan incoming
	done chan struct{} // closed when the session has ended and accept has returned
	wg   sync.WaitGroup
}

type incoming struct {
	conn net.Conn
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
	s := &Session{ys: ys, in: make(chan incoming), done: make(chan struct{})}
	go s.accept()
	return s, nil
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = MaxIncoming
	c.MaxIncomingStreams = MaxIncoming
	c.EnableKeepAlive = false // a paused guest is silent
	c.MeasureRTTInterval = 24 * time.Hour
	c.ConnectionWriteTimeout = 10 * time.Second
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
		conn, err := s.ys.Accept()
		if err != nil {
			s.ys.Close() // joins yamux's goroutines when it closed itself
			s.wg.Wait()
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.header(conn)
		}()
	}
}

func (s *Session) header(conn net.Conn) {
	var h [4]byte
	conn.SetReadDeadline(time.Now().Add(headerTimeout))
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		reset(conn)
		return
	}
	conn.SetReadDeadline(time.Time{})
	select {
	case s.in <- incoming{conn, binary.BigEndian.Uint32(h[:])}:
	case <-s.ys.CloseChan():
		conn.Close()
	}
}

// reset ends a stream in both directions at once.
func reset(conn net.Conn) {
	if st, ok := conn.(*yamux.Stream); ok {
		st.Reset()
		return
	}
	conn.Close()
}

// Open opens a stream to a port of the other end. It returns before the other end
// has accepted: a refusal shows at the first read. Cancelling ctx afterwards has no
// effect on the stream. KindUnavailable when the session is over or the stream
// can't be opened within ctx.
func (s *Session) Open(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := s.ys.Open(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open a stream to port %d: %w", port, err)
	}
	if d, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { reset(conn) })
	_, err = conn.Write(binary.BigEndian.AppendUint32(nil, port))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		reset(conn)
		return nil, mvm.Errorf(mvm.KindUnavailable, "open a stream to port %d: %w", port, err)
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// Accept returns the next stream that the other end opened, and its port. It
// fails with KindUnavailable once the session is over. The caller must accept
// promptly and close what it does not want. A Close sends what was written before
// it; the stream has CloseWrite.
func (s *Session) Accept() (net.Conn, uint32, error) {
	select {
	case in := <-s.in:
		return in.conn, in.port, nil
	case <-s.ys.CloseChan():
		return nil, 0, mvm.Errorf(mvm.KindUnavailable, "accept a stream: the session is over")
	}
}

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

// sessionConn is one session's view of a link.
type sessionConn struct {
	l *link
	// end is called once by Close, to stop reads and writes under way.
	end func()
	// control decides about a record that arrives within the session: an error
	// ends the session.
	control func(control) error
	once    sync.Once
}

func (c *sessionConn) Read(p []byte) (int, error) {
	for {
		n, ctl, err := c.l.read(p)
		if ctl != nil {
			if err := c.control(*ctl); err != nil {
				return 0, err
			}
			continue
		}
		return n, err
	}
}

func (c *sessionConn) Write(p []byte) (int, error) { return c.l.write(p) }

func (c *sessionConn) Close() error {
	c.once.Do(c.end)
	return nil
}

// Deadlines are not for the link: a paused guest may stop it for any time.
func (c *sessionConn) SetDeadline(time.Time) error      { return nil }
func (c *sessionConn) SetReadDeadline(time.Time) error  { return nil }
func (c *sessionConn) SetWriteDeadline(time.Time) error { return nil }
func (c *sessionConn) LocalAddr() net.Addr              { return addr{} }
func (c *sessionConn) RemoteAddr() net.Addr             { return addr{} }

type addr struct{}

func (addr) Network() string { return "virtio-serial" }
func (addr) String() string  { return "mvm.0" }
