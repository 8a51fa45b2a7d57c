package roster

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"mvm/internal/guestproto"
)

// worker is one instance, as long as something of it is known or under way.
// Fields without another note are guarded by roster.mu.
type worker struct {
	id, pool string
	boot     int // as in guestproto.Awake; never changed
	ip       netip.Addr
	backend  *backend // nil: ask the host before anything is sent
	requests int
	streams  map[*Stream]struct{}
	conns    map[*gatedConn]struct{}
	reported report

	awake    atomic.Bool  // backend != nil
	answered atomic.Bool  // it answered a request for its key with success
	gone     atomic.Bool  // its memory is gone, and it is not on the roster any more
	last     atomic.Int64 // roster.mono of the last bytes
}

// backend is a worker from the answer that says it is awake to the next fence. Its
// pooled connections end with it.
type backend struct {
	w      *worker
	ip     netip.Addr
	lanes  lanes
	ctx    context.Context // ends with it, and with it attempts to connect
	cancel context.CancelFunc
	heard  atomic.Int64 // roster.mono of the last connection made, or request answered, at any port
	gone   bool         // fenced; roster.mu
}

// hear notes that something was heard from a port of the backend.
func (b *backend) hear(p *lane, now time.Duration) {
	p.heard.Store(int64(now))
	b.heard.Store(int64(now))
}

// Stream is a connection that carries bytes both ways: TCP or after an Upgrade.
type Stream struct {
	ro   *Roster
	w    *worker
	last atomic.Int64 // roster.mono of the last bytes
}

// IdlePerInstance bounds the pooled connections to one instance.
const IdlePerInstance = 32

// awaken returns the backend of an instance that the host says is awake. Where it has
// booted anew, what is left of the former boot is added to gone. ro.mu is held.
func (ro *Roster) awaken(pool string, a guestproto.Awake, gone *[]dead) *backend {
	w := ro.workers[a.InstanceID]
	if w != nil && a.Boot > w.boot {
		*gone = append(*gone, ro.bury(w))
		w = nil
	}
	if w == nil {
		w = &worker{id: a.InstanceID, pool: pool, boot: a.Boot, streams: map[*Stream]struct{}{}, conns: map[*gatedConn]struct{}{}}
		ro.workers[a.InstanceID] = w
	}
	ro.evict(w, a.IP)
	w.ip = a.IP
	if w.backend == nil {
		b := &backend{w: w, ip: a.IP, lanes: lanes{dials: ro.lim.Dials}}
		b.ctx, b.cancel = context.WithCancel(ro.ctx)
		w.backend = b
		w.awake.Store(true)
		w.probe(true)
	}
	return w.backend
}

// evict retires what the host's answer, that the address is the worker's, makes
// stale: the worker at another address, and others at this one. ro.mu is held.
func (ro *Roster) evict(w *worker, ip netip.Addr) {
	if w.ip != ip {
		ro.retire(w)
	}
	for _, other := range ro.workers {
		if other != w && other.ip == ip {
			ro.retire(other)
		}
	}
}

// retire ends the worker's backend, if it has one, and returns it. ro.mu is held;
// the caller closes the backend's idle connections after it has let go of it.
func (ro *Roster) retire(w *worker) *backend {
	b := w.backend
	if b == nil {
		return nil
	}
	b.gone = true
	b.cancel()
	w.backend = nil
	w.awake.Store(false)
	return b
}

// load is by what least_connections chooses.
func (w *worker) load() int { return w.requests + len(w.streams) }

// active counts requests under way and streams that carried bytes lately.
func (w *worker) active(now, quiet time.Duration) int {
	n := w.requests
	for s := range w.streams {
		if now-time.Duration(s.last.Load()) < quiet {
			n++
		}
	}
	return n
}

// touch notes that the worker is in use.
func (ro *Roster) touch(w *worker) {
	w.last.Store(int64(ro.mono()))
	select {
	case ro.dirty <- struct{}{}:
	default:
	}
}

// Touch notes that the stream carried bytes.
func (s *Stream) Touch() {
	s.last.Store(int64(s.ro.mono()))
	s.ro.touch(s.w)
}

// forgettable reports whether nothing of the worker matters any more.
func (w *worker) forgettable() bool {
	return w.backend == nil && w.requests == 0 && len(w.streams) == 0 && len(w.conns) == 0
}
