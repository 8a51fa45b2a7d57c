package roster

import (
	"bufio"
	"context"
	"errors"
	"math"
	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guest/gateway/wire"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Link is a connection to an instance for HTTP: one request at a time, and between two
// of them in the backend's pool.
type Link struct {
	*gatedConn
	b    *backend
	lane *lane
	in   *bufio.Reader
	out  []byte // for heads

	answer wire.AnswerHead

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

func newLink(b *backend, p *lane, c *gatedConn) *Link {
	k := &Link{gatedConn: c, b: b, lane: p, left: math.MaxInt64}
	k.in = bufio.NewReaderSize(k, linkBuffer)
	if sc, ok := c.Conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			k.raw, k.look = raw, k.lookAt
		}
	}
	return k
}

// Read reads from the instance, within what may come.
func (k *Link) Read(p []byte) (int, error) {
	if k.left <= 0 {
		return 0, errHead
	}
	n, err := k.gatedConn.Read(p)
	k.left -= int64(n)
	k.came += int64(n)
	return n, err
}

// Write sends to the instance.
func (k *Link) Write(p []byte) (int, error) {
	n, err := k.gatedConn.Write(p)
	if err == nil || n > 0 {
		k.sent.Store(true)
	}
	return n, err
}

// ReadResponse reads the head of an answer.
func (k *Link) ReadResponse(req *http.Request) (*http.Response, error) {
	return k.answer.Read(k.in, req)
}

// lookAt notes whether the connection is open and silent.
func (k *Link) lookAt(fd uintptr) bool {
	_, err := sock.Peek(fd)
	k.silent = err == syscall.EAGAIN
	return true
}

// usable reports whether the instance keeps the idle connection open.
func (k *Link) usable() bool {
	if k.raw == nil {
		return true
	}
	k.silent = false
	return k.raw.Read(k.look) == nil && k.silent
}

// lane is what there is of one port of a backend. lanes.mu guards it.
type lane struct {
	addr   string           // of the instance, with the port
	proven bool             // it took a connection
	proof  *proof           // the first connection, while it is being made
	idle   []*Link          // the newest last
	offers chan *Link       // to who waits for a connection
	dials  chan struct{}    // one per connection that is being made, once proven
	heard  atomic.Int64     // roster.mono of the last connection made, or request answered
	freed  [4]time.Duration // roster.mono of when links came free the last times
	oldest int              // of freed
}

// free notes that a link comes free. lanes.mu is held.
func (p *lane) free(now time.Duration) {
	p.freed[p.oldest] = now
	p.oldest = (p.oldest + 1) % len(p.freed)
}

// hot reports whether links come free so often that the next one is near. lanes.mu is held.
func (p *lane) hot(now, moment time.Duration) bool {
	first := p.freed[p.oldest]
	return first > 0 && now-first < moment
}

// lanes are a backend's ports.
type lanes struct {
	dials int // connections to one port that are being made at once
	mu    sync.Mutex
	at    map[int]*lane
	count int // idle links
	timer *time.Timer
}

// lane returns what there is of the port.
func (b *backend) lane(port int) *lane {
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	p := b.lanes.at[port]
	if p == nil {
		p = &lane{addr: net.JoinHostPort(b.ip.String(), strconv.Itoa(port)),
			offers: make(chan *Link), dials: make(chan struct{}, b.lanes.dials)}
		if b.lanes.at == nil {
			b.lanes.at = map[int]*lane{}
		}
		b.lanes.at[port] = p
	}
	return p
}

// idleLink takes the newest link out of the pool, nil when there is none that is open and was
// idle for less than the time.
func (b *backend) idleLink(p *lane, within time.Duration) *Link {
	for {
		b.lanes.mu.Lock()
		n := len(p.idle) - 1
		if n < 0 || time.Since(p.idle[n].idle) >= within {
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
func (k *Link) begin() {
	k.came, k.reused = 0, true
	k.sent.Store(false)
}

// Room is memory for a head that is sent, and keep keeps it for the next one.
func (k *Link) Room() []byte  { return k.out[:0] }
func (k *Link) Keep(b []byte) { k.out = b[:0] }

// Addr is the instance's address, with the port.
func (k *Link) Addr() string { return k.lane.addr }

// Bound has no more come than the head of an answer may have, and unbound undoes that.
func (k *Link) Bound()   { k.left = maxHead }
func (k *Link) Unbound() { k.left = math.MaxInt64 }

// Waiting is how much has come that was not read.
func (k *Link) Waiting() int { return k.in.Buffered() }

// Unsent reports whether nothing of the request was sent.
func (k *Link) Unsent() bool { return !k.sent.Load() }

// Ended reports whether the connection was used before, and its end may have been on its way
// when the request was sent: nothing came, and the instance is there.
func (k *Link) Ended() bool { return k.reused && k.came == 0 && !k.w.gone.Load() }

// Put gives the link back, which has nothing under way.
func (k *Link) Put() { k.ro.put(k) }

// Plain is the link as a connection that carries plain bytes: what came behind the head first.
func (k *Link) Plain() net.Conn { return buffered{k} }

// buffered is a link that carries plain bytes.
type buffered struct{ *Link }

// Read reads what came behind the head, and then from the instance.
func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// put gives a link back that has nothing under way: to who waits for one, or to the pool.
func (ro *Roster) put(k *Link) {
	b, p, now := k.b, k.lane, ro.mono()
	b.hear(p, now)
	b.lanes.mu.Lock()
	if b.ctx.Err() != nil || k.in.Buffered() > 0 {
		b.lanes.mu.Unlock()
		_ = k.Close()
		return
	}
	k.begin()
	p.free(now)
	select {
	case p.offers <- k:
		b.lanes.mu.Unlock()
		return
	default:
	}
	k.idle = time.Now()
	old := b.keep(p, k)
	if b.lanes.timer == nil {
		b.lanes.timer = time.AfterFunc(ro.lim.Idle, func() { ro.expire(b) })
	}
	b.lanes.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// keep puts the link into the pool. Where that is full it returns the one that is to be closed:
// the lane's oldest, if it has any. b.lanes.mu is held.
func (b *backend) keep(p *lane, k *Link) (old *Link) {
	switch {
	case b.lanes.count < IdlePerInstance:
		b.lanes.count++
	case len(p.idle) == 0:
		return k
	default:
		old = p.idle[0]
		p.idle = append(p.idle[:0], p.idle[1:]...)
	}
	p.idle = append(p.idle, k)
	return old
}

// expire closes the links that were idle for too long, and comes again for the others.
func (ro *Roster) expire(b *backend) {
	if !ro.group.Enter() {
		return
	}
	defer ro.group.Leave()
	now := time.Now()
	var old []*Link
	b.lanes.mu.Lock()
	next := ro.lim.Idle
	for _, p := range b.lanes.at {
		n := 0
		for n < len(p.idle) && now.Sub(p.idle[n].idle) >= ro.lim.Idle {
			n++
		}
		old = append(old, p.idle[:n]...)
		p.idle = append(p.idle[:0], p.idle[n:]...)
		if len(p.idle) > 0 {
			next = min(next, ro.lim.Idle-now.Sub(p.idle[0].idle))
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
	var all []*Link
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

// soon waits a moment for the next link, where links come free all the time: to connect costs
// more than a request. Nobody looks for the end of the client meanwhile, nor for other ends than
// the backend's: that would cost about as much again.
func (ro *Roster) soon(b *backend, p *lane) *Link {
	b.lanes.mu.Lock()
	hot := p.hot(ro.mono(), ro.lim.Moment)
	b.lanes.mu.Unlock()
	if !hot {
		return nil
	}
	timer := timers.Get().(*time.Timer)
	defer timers.Put(timer)
	timer.Reset(ro.lim.Moment)
	defer timer.Stop()
	for {
		select {
		case k := <-p.offers:
			if k.usable() {
				return k
			}
			_ = k.Close()
		case <-timer.C:
			return nil
		case <-b.ctx.Done():
			return nil
		}
	}
}

// timers are ones that have been stopped.
var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

// link returns a connection to the backend for a request: a pooled one that was idle for less
// than the time, or a new one.
func (ro *Roster) link(ctx context.Context, b *backend, p *lane, within time.Duration) (*Link, error) {
	if within > 0 {
		if k := b.idleLink(p, within); k != nil {
			return k, nil
		}
		if k := ro.soon(b, p); k != nil {
			return k, nil
		}
	}
	c, k, err := ro.connect(ctx, b, p, within > 0)
	if k != nil || err != nil {
		return k, err
	}
	return newLink(b, p, c), nil
}
