// Package channel is the host side of the guest channel of one VMM: hybrid vsock, over a
// virtio-serial port (Channel) or in front of a VMM that has it itself (Vsock).
//
// A Channel connects to the unix socket of the VMM's character device and keeps a mux
// session with the guest on it, for as long as the Channel is open and through
// restarts of the guest agent. It offers what Firecracker offers for vsock:
//
//   - Dial, or the socket <RunDir>/v.sock (0600): "CONNECT <port>\n", answered
//     "OK <n>\n", then the stream is the guest's.
//   - A stream that the guest opens to port 53 goes to the unix socket
//     <RunDir>/v.sock_53, on which another part of this process listens. Streams to
//     other ports are reset, and so are all without that socket. Hypervisors with a
//     vsock of their own serve each socket that is there: these do not, since who
//     can put a socket there could choose what the guest speaks with.
//
// A paused guest is silent and keeps its session. The guest is hostile: streams,
// buffers and the rate of new sessions are bounded.
package channel

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto/mux"
	"mvm/internal/sys"
)

// Bounds of one channel.
const (
	// MaxLocal bounds the connections of v.sock at one time.
	MaxLocal = 64
	// firstBackoff and lastBackoff bound how fast sessions follow each other.
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = 200 * time.Millisecond
)

// Options say where a channel's ends are.
type Options struct {
	Chardev string // unix socket of the VMM's character device
	RunDir  string // of v.sock and v.sock_53
	// VMM is who may listen on Chardev, beside this process's user.
	VMM sys.Peer
	Log *slog.Logger
	// First, when not nil, is a connection to Chardev that was made already.
	First net.Conn
	// Hold: the guest was restored and its vCPUs do not run yet. No session is begun
	// before Greet or Dial is called. First must be set.
	Hold bool
}

// Channel is the open channel of one VMM. Its methods may be called from many
// goroutines.
type Channel struct {
	opts Options
	*ends

	hold     chan struct{} // closed when a session may begin
	letGo    sync.Once
	greeting sync.Mutex // held by Greet, and while keep takes over First

	mu    sync.Mutex
	sess  *mux.Session  // nil while there is none
	ready chan struct{} // closed when sess is set; replaced when it is gone
}

// Open starts the channel: it listens on v.sock and connects to the guest in the
// background. Close ends it. On an error Options.First is closed.
func Open(opts Options) (*Channel, error) {
	c := &Channel{opts: opts, ready: make(chan struct{}), hold: make(chan struct{})}
	if !opts.Hold {
		c.begin()
	}
	var err error
	if c.ends, err = openEnds(opts.RunDir, opts.Log, c.Dial); err != nil {
		if opts.First != nil {
			opts.First.Close()
		}
		return nil, err
	}
	c.wg.Go(c.keep)
	c.start()
	return c, nil
}

// Close ends the session, every stream and v.sock, and waits for its goroutines.
// The guest sees its session end. It is idempotent.
func (c *Channel) Close() error {
	c.stop()
	c.mu.Lock()
	s := c.sess
	c.mu.Unlock()
	if s != nil {
		s.Close()
	}
	c.wg.Wait()
	return nil
}

// Dial opens a stream to the guest's port; it waits for a session within ctx and
// fails with KindUnavailable. A guest that does not serve the port ends the stream.
func (c *Channel) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c.begin()
	for {
		s, ready := c.session()
		if s != nil {
			conn, err := s.Open(ctx, port)
			if err == nil || !s.Over() {
				return conn, err
			}
			c.drop(s) // it died under us: wait for the next
			continue
		}
		select {
		case <-ready:
		case <-c.ctx.Done():
			return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of the guest: %w", port, context.Cause(c.ctx))
		case <-ctx.Done():
			return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of the guest: it does not answer: %w", port, context.Cause(ctx))
		}
	}
}

// begin lets the first session begin.
func (c *Channel) begin() { c.letGo.Do(func() { close(c.hold) }) }

// quiet is how long after a greeting the guest is left to its own work before a
// session is begun, unless somebody dials.
const quiet = 250 * time.Millisecond

// Greet sends a greeting to a guest that was just restored and returns its answer;
// see mux.Greet. It works once, on a channel that was opened with Hold and has not
// been dialled: KindState otherwise.
func (c *Channel) Greet(ctx context.Context, body []byte) ([]byte, error) {
	c.greeting.Lock()
	defer c.greeting.Unlock()
	if !c.opts.Hold || c.ctx.Err() != nil {
		return nil, mvm.Errorf(mvm.KindState, "greet the guest: its session has begun")
	}
	c.opts.Hold = false
	answer, err := mux.Greet(ctx, c.opts.First, body)
	if err != nil {
		c.begin()
		return nil, err
	}
	c.wg.Go(func() {
		select {
		case <-time.After(quiet):
		case <-c.hold:
		case <-c.ctx.Done():
		}
		c.begin()
	})
	return answer, nil
}

func (c *Channel) session() (*mux.Session, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sess, c.ready
}

// set makes s the session; false when the channel is closed already.
func (c *Channel) set(s *mux.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.sess = s
	close(c.ready)
	return true
}

// drop forgets s, if it is still the session.
func (c *Channel) drop(s *mux.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sess == s {
		c.sess, c.ready = nil, make(chan struct{})
	}
}

// keep holds one session after the other until the channel is closed.
func (c *Channel) keep() {
	backoff := firstBackoff
	first := c.opts.First
	select {
	case <-c.hold:
	case <-c.ctx.Done():
	}
	c.greeting.Lock() // a greeting under way ends first
	c.opts.Hold = false
	c.greeting.Unlock()
	if c.ctx.Err() != nil && first != nil {
		first.Close()
	}
	for c.ctx.Err() == nil {
		start := time.Now()
		err := c.once(first)
		first = nil
		if c.ctx.Err() != nil {
			return
		}
		c.opts.Log.Debug("guest channel session ended", "after", time.Since(start), "error", err)
		if time.Since(start) > 5*lastBackoff {
			backoff = firstBackoff
		}
		t := time.NewTimer(backoff)
		select {
		case <-c.ctx.Done():
		case <-t.C:
		}
		t.Stop()
		backoff = min(2*backoff, lastBackoff)
	}
}

// once connects, holds one session and serves the streams that the guest opens.
func (c *Channel) once(conn net.Conn) error {
	if conn == nil {
		c2, err := dial(c.ctx, filepath.Dir(c.opts.Chardev), filepath.Base(c.opts.Chardev), c.opts.VMM)
		if err != nil {
			return fmt.Errorf("connect to the VMM: %w", err)
		}
		conn = c2
	}
	s, err := mux.Client(c.ctx, conn)
	if err != nil {
		return err
	}
	defer s.Close()
	if !c.set(s) {
		return context.Cause(c.ctx)
	}
	defer c.drop(s)
	for {
		stream, port, err := s.Accept()
		if err != nil {
			return err
		}
		c.wg.Go(func() { c.toHost(stream, port) })
	}
}
