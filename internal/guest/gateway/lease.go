package gateway

import (
	"context"
	"errors"
	"net"
	"time"
)

// lease is one request's or stream's use of an awake instance, until end. While it lasts a fence of the
// instance counts it.
type lease struct {
	ro     *roster
	b      *backend
	asked  bool // the host was asked for it
	ended  bool
	stream *stream
}

// Instance is the instance, and Boot the number of its boot.
func (l *lease) Instance() (id string, boot int) { return l.b.w.id, l.b.w.boot }

// mono is the roster's time.
func (l *lease) mono() time.Duration { return l.ro.mono() }

// gone reports whether the instance's memory is gone.
func (l *lease) gone() bool { return l.b.w.gone.Load() }

// answered notes that the instance answered a request for its key with success.
func (l *lease) answered() { l.b.w.answered.Store(true) }

// pooled says which connections a request may use that others used before.
type pooled int

const (
	useNone  pooled = iota
	useBrief        // what was idle for a short time: the request may not be sent twice
	useAll
)

// link returns a connection to a port of the instance, for a request.
func (l *lease) link(ctx context.Context, port int, use pooled) (*link, error) {
	within := time.Duration(0)
	switch use {
	case useBrief:
		within = l.ro.lim.IdleBrief
	case useAll:
		within = l.ro.lim.Idle
	}
	return l.ro.link(ctx, l.b, l.b.lane(port), within)
}

// connect returns a new connection to a port of the instance.
func (l *lease) connect(ctx context.Context, port int) (net.Conn, error) {
	conn, _, err := l.ro.connect(ctx, l.b, l.b.lane(port), false)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Dial connects to a port of the instance. What is sent on the connection has the instance
// awake first, and it ends when the instance's memory is gone.
func (l *lease) Dial(ctx context.Context, port int) (net.Conn, error) {
	began := l.mono()
	conn, err := l.connect(ctx, port)
	if err != nil && !l.serves(port, began) && !errors.Is(err, errCrowded) && ctx.Err() == nil {
		l.doubt()
	}
	return conn, err
}

// fresh reports whether the host was asked for this lease and nothing has come to
// contradict its answer: asking again would not help.
func (l *lease) fresh() bool { return l.asked && l.b.ctx.Err() == nil }

// asStream counts the lease as a stream from now on, no longer as a request.
func (l *lease) asStream() *stream {
	s := &stream{ro: l.ro, w: l.b.w}
	s.last.Store(int64(l.ro.mono()))
	l.ro.mu.Lock()
	l.b.w.requests--
	l.b.w.streams[s] = struct{}{}
	l.ro.mu.Unlock()
	l.stream = s
	return s
}

// End gives the lease back. Calling it again does nothing.
func (l *lease) End() {
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

// doubt forgets that the lease's instance is awake, unless that is newer than the lease.
func (l *lease) doubt() {
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

// serves reports whether something was heard from the instance since then, a time of mono: that a port takes
// no connection is then the port's matter, and asking the host would not help. For a port
// that never took one Limits.Reconnect before now count too.
func (l *lease) serves(port int, since time.Duration) bool {
	p := l.b.lane(port)
	l.b.lanes.mu.Lock()
	if !p.proven {
		since = min(since, l.ro.mono()-l.ro.lim.Reconnect)
	}
	l.b.lanes.mu.Unlock()
	heard := time.Duration(l.b.heard.Load())
	return heard > 0 && heard >= since && l.b.ctx.Err() == nil
}
