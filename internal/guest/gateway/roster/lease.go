package roster

import (
	"context"
	"errors"
	"net"
	"time"
)

// Lease is one request's or stream's use of an awake instance, until end. While it lasts a fence of the
// instance counts it.
type Lease struct {
	ro     *Roster
	b      *backend
	asked  bool // the host was asked for it
	ended  bool
	stream *Stream
}

// Instance is the instance, and Boot the number of its boot.
func (l *Lease) Instance() (id string, boot int) { return l.b.w.id, l.b.w.boot }

// Mono is the roster's time.
func (l *Lease) Mono() time.Duration { return l.ro.mono() }

// Gone reports whether the instance's memory is gone.
func (l *Lease) Gone() bool { return l.b.w.gone.Load() }

// Answered notes that the instance answered a request for its key with success.
func (l *Lease) Answered() { l.b.w.answered.Store(true) }

// Pooled says which connections a request may use that others used before.
type Pooled int

const (
	UseNone  Pooled = iota // a new connection
	UseBrief               // what was idle for a short time: the request may not be sent twice
	UseAll                 // whatever is kept
)

// Link returns a connection to a port of the instance, for a request.
func (l *Lease) Link(ctx context.Context, port int, use Pooled) (*Link, error) {
	within := time.Duration(0)
	switch use {
	case UseBrief:
		within = l.ro.lim.IdleBrief
	case UseAll:
		within = l.ro.lim.Idle
	}
	return l.ro.link(ctx, l.b, l.b.lane(port), within)
}

// Connect returns a new connection to a port of the instance.
func (l *Lease) Connect(ctx context.Context, port int) (net.Conn, error) {
	conn, _, err := l.ro.connect(ctx, l.b, l.b.lane(port), false)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Dial connects to a port of the instance. What is sent on the connection has the instance
// awake first, and it ends when the instance's memory is gone.
func (l *Lease) Dial(ctx context.Context, port int) (net.Conn, error) {
	began := l.Mono()
	conn, err := l.Connect(ctx, port)
	if err != nil && !l.Serves(port, began) && !errors.Is(err, ErrCrowded) && ctx.Err() == nil {
		l.Doubt()
	}
	return conn, err
}

// Fresh reports whether the host was asked for this lease and nothing has come to
// contradict its answer: asking again would not help.
func (l *Lease) Fresh() bool { return l.asked && l.b.ctx.Err() == nil }

// AsStream counts the lease as a stream from now on, no longer as a request.
func (l *Lease) AsStream() *Stream {
	s := &Stream{ro: l.ro, w: l.b.w}
	s.last.Store(int64(l.ro.mono()))
	l.ro.mu.Lock()
	l.b.w.requests--
	l.b.w.streams[s] = struct{}{}
	l.ro.mu.Unlock()
	l.stream = s
	return s
}

// End gives the lease back. Calling it again does nothing.
func (l *Lease) End() {
	b, ro := l.b, l.ro
	if l.ended {
		return
	}
	ro.mu.Lock()
	if l.stream != nil {
		delete(b.w.streams, l.stream)
	} else {
		b.w.requests--
	}
	ro.mu.Unlock()
	ro.touch(b.w)
	l.ended = true
}

// Doubt forgets that the lease's instance is awake, unless that is newer than the lease.
func (l *Lease) Doubt() {
	l.ro.mu.Lock()
	var b *backend
	if l.b.w.backend == l.b {
		b = l.ro.retire(l.b.w)
	}
	l.ro.mu.Unlock()
	if b != nil {
		b.closeIdle()
	}
}

// Serves reports whether something was heard from the instance since then, a time of mono: that a port takes
// no connection is then the port's matter, and asking the host would not help. For a port
// that never took one Limits.Reconnect before now count too.
func (l *Lease) Serves(port int, since time.Duration) bool {
	p := l.b.lane(port)
	l.b.lanes.mu.Lock()
	if !p.proven {
		since = min(since, l.ro.mono()-l.ro.lim.Reconnect)
	}
	l.b.lanes.mu.Unlock()
	heard := time.Duration(l.b.heard.Load())
	return heard > 0 && heard >= since && l.b.ctx.Err() == nil
}
