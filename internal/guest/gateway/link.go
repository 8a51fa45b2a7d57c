package gateway

import (
	"bufio"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// link is a connection to an instance for HTTP: one request at a time, and between two
// of them in the backend's pool.
type link struct {
	*gatedConn
	b    *backend
	addr string
	in   *bufio.Reader
	out  []byte // for heads

	answer plainAnswer

	left   int64       // bytes that may still come: while a head is read
	came   int64       // bytes
	sent   atomic.Bool // something of the request may have been sent
	reused bool        // it is not the connection's first request
	idle   time.Time

	raw    syscall.RawConn // nil: can't be looked at
	look   func(fd uintptr) bool
	silent bool // by the last look: open, and nothing has come
}

const (
	linkBuffer = 4 << 10
	maxHead    = 256 << 10 // of an answer, with its 1xx answers
)

var errHead = errors.New("the head of the answer is too large")

func newLink(b *backend, c *gatedConn, addr string) *link {
	k := &link{gatedConn: c, b: b, addr: addr, left: math.MaxInt64}
	k.in = bufio.NewReaderSize(k, linkBuffer)
	if sc, ok := c.Conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			k.raw, k.look = raw, k.lookAt
		}
	}
	return k
}

// Read reads from the instance, within what may come.
func (k *link) Read(p []byte) (int, error) {
	if k.left <= 0 {
		return 0, errHead
	}
	n, err := k.gatedConn.Read(p)
	k.left -= int64(n)
	k.came += int64(n)
	return n, err
}

// Write sends to the instance.
func (k *link) Write(p []byte) (int, error) {
	n, err := k.gatedConn.Write(p)
	if err == nil || n > 0 {
		k.sent.Store(true)
	}
	return n, err
}

// lookAt notes whether the connection is open and silent.
func (k *link) lookAt(fd uintptr) bool {
	_, err := peek(fd)
	k.silent = err == syscall.EAGAIN
	return true
}

// usable reports whether the instance keeps the idle connection open.
func (k *link) usable() bool {
	if k.raw == nil {
		return true
	}
	k.silent = false
	return k.raw.Read(k.look) == nil && k.silent
}

// lane is what there is of one port of a backend. lanes.mu guards it.
type lane struct {
	proven bool          // it took a connection
	proof  *proof        // the first connection, while it is being made
	idle   []*link       // the newest last
	offers chan *link    // to who waits for a connection
	dials  chan struct{} // one per connection that is being made, once proven
}

// lanes are a backend's ports.
type lanes struct {
	dials int // connections to one port that are being made at once
	mu    sync.Mutex
	at    map[string]*lane
	count int // idle links
	timer *time.Timer
}

// lane returns what there is of the address. b.lanes.mu is held.
func (b *backend) lane(addr string) *lane {
	p := b.lanes.at[addr]
	if p == nil {
		p = &lane{offers: make(chan *link), dials: make(chan struct{}, b.lanes.dials)}
		if b.lanes.at == nil {
			b.lanes.at = map[string]*lane{}
		}
		b.lanes.at[addr] = p
	}
	return p
}

// idleLink takes the newest link out of the pool, nil when there is none that is open.
func (b *backend) idleLink(addr string) *link {
	for {
		b.lanes.mu.Lock()
		p := b.lane(addr)
		n := len(p.idle) - 1
		if n < 0 {
			b.lanes.mu.Unlock()
			return nil
		}
		k := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		b.lanes.count--
		b.lanes.mu.Unlock()
		if k.usable() {
			k.begin()
			return k
		}
		_ = k.Close()
	}
}

// begin makes the link ready for the next request.
func (k *link) begin() {
	k.came, k.reused = 0, true
	k.sent.Store(false)
}

// put gives a link back that has nothing under way: to who waits for one, or to the pool.
func (ro *roster) put(k *link) {
	b := k.b
	b.heard.Store(int64(ro.mono()))
	b.lanes.mu.Lock()
	p := b.lane(k.addr)
	if b.ctx.Err() != nil || k.in.Buffered() > 0 {
		b.lanes.mu.Unlock()
		_ = k.Close()
		return
	}
	k.begin()
	select {
	case p.offers <- k:
		b.lanes.mu.Unlock()
		return
	default:
	}
	if b.lanes.count >= idlePerInstance {
		b.lanes.mu.Unlock()
		_ = k.Close()
		return
	}
	k.idle = time.Now()
	p.idle = append(p.idle, k)
	b.lanes.count++
	if b.lanes.timer == nil {
		b.lanes.timer = time.AfterFunc(idleTime, func() { ro.expire(b) })
	}
	b.lanes.mu.Unlock()
}

// expire closes the links that were idle for too long, and comes again for the others.
func (ro *roster) expire(b *backend) {
	if !ro.group.enter() {
		return
	}
	defer ro.group.leave()
	now := time.Now()
	var old []*link
	b.lanes.mu.Lock()
	next := idleTime
	for _, p := range b.lanes.at {
		n := 0
		for n < len(p.idle) && now.Sub(p.idle[n].idle) >= idleTime {
			n++
		}
		old = append(old, p.idle[:n]...)
		p.idle = append(p.idle[:0], p.idle[n:]...)
		if len(p.idle) > 0 {
			next = min(next, idleTime-now.Sub(p.idle[0].idle))
		}
	}
	b.lanes.count -= len(old)
	if b.lanes.timer != nil {
		if b.lanes.count > 0 {
			b.lanes.timer.Reset(next)
		} else {
			b.lanes.timer = nil
		}
	}
	b.lanes.mu.Unlock()
	for _, k := range old {
		_ = k.Close()
	}
}

// closeIdle closes the links in the pools. No lock is held.
func (b *backend) closeIdle() {
	var all []*link
	b.lanes.mu.Lock()
	for _, p := range b.lanes.at {
		all = append(all, p.idle...)
		p.idle = nil
	}
	b.lanes.count = 0
	if b.lanes.timer != nil {
		b.lanes.timer.Stop()
		b.lanes.timer = nil
	}
	b.lanes.mu.Unlock()
	for _, k := range all {
		_ = k.Close()
	}
}

// link returns a connection to the backend for a request: a pooled one, unless fresh is
// asked for, or a new one.
func (ro *roster) link(ctx context.Context, b *backend, addr string, fresh bool) (*link, error) {
	var q queued
	if !fresh {
		if k := b.idleLink(addr); k != nil {
			return k, nil
		}
		var k *link
		if q, k = ro.soon(b, addr); k != nil {
			return k, nil
		}
	}
	c, k, err := ro.connect(ctx, b, addr, q)
	if k != nil || err != nil {
		return k, err
	}
	return newLink(b, c, addr), nil
}

// queued is a place in the queue for a connection.
type queued struct {
	offers <-chan *link  // nil: none is taken
	turn   chan struct{} // a place in it is taken; nil: its turn to connect has not come
}

// soon waits for a link that is offered, or for the turn to connect, as long as nobody looks
// for the client's end. That spares most requests of a burst all that a longer wait takes.
//
// To connect costs more than a request. So where there are some links already, one that
// comes free within a moment is waited for, and while the gateway is busy for longer: with
// more links it would do no more.
func (ro *roster) soon(b *backend, addr string) (queued, *link) {
	b.lanes.mu.Lock()
	p := b.lane(addr)
	proven, offers, dials := p.proven, p.offers, p.dials
	b.lanes.mu.Unlock()
	if !proven {
		return queued{offers: offers}, nil
	}
	timer := time.NewTimer(ro.lim.Moment)
	defer timer.Stop()
	turn, few := dials, true
	for waited := ro.lim.Moment; ; {
		select {
		case k := <-offers:
			return queued{}, k
		case turn <- struct{}{}:
			if !few || ro.connsTo(b.w) < fewLinks {
				return queued{offers, dials}, nil
			}
			<-dials
			turn = nil
		case <-b.ctx.Done():
			return queued{offers: offers}, nil
		case <-timer.C:
			if waited >= ro.lim.Watch {
				return queued{offers: offers}, nil
			}
			if !ro.busy.Load() {
				turn, few = dials, false
			}
			waited += ro.lim.Moment
			timer.Reset(ro.lim.Moment)
		}
	}
}

// connsTo counts the connections to the worker.
func (ro *roster) connsTo(w *worker) int {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	return len(w.conns)
}
