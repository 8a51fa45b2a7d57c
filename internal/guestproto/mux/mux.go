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
	"errors"
	"net"
	"sync"
	"time"
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

// sessionConn is one session's view of a link.
type sessionConn struct {
	l *link
	// end is called once by Close, to stop reads and writes under way.
	end func()
	// control decides about a record that arrives within the session: an error
	// ends the session.
	control func(control) error
	once    sync.Once
	over    chan struct{} // closed by Close
	tally   *tally        // on the host
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
		if c.tally != nil {
			c.tally.came(p[:n])
			if err != nil {
				c.tally.drain(c.over)
			}
		}
		return n, err
	}
}

func (c *sessionConn) Write(p []byte) (int, error) { return c.l.write(p) }

func (c *sessionConn) Close() error {
	c.once.Do(func() { close(c.over); c.end() })
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
