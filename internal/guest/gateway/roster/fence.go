package roster

import (
	"maps"
	"slices"

	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guestproto"
)

// Fence forgets that the instance is awake and counts what is under way to it.
func (ro *Roster) Fence(f guestproto.Fence) int {
	ro.mu.Lock()
	for c := range ro.inFlight {
		if c.fenced == nil {
			c.fenced = map[string]bool{}
		}
		c.fenced[f.InstanceID] = true
	}
	w := ro.workers[f.InstanceID]
	switch {
	case w == nil || f.Gone && f.Boot < w.boot:
		ro.mu.Unlock()
		return 0
	case f.Gone:
		d := ro.bury(w)
		ro.sweepEntries()
		ro.mu.Unlock()
		d.end()
		return 0
	}
	w.probe(false)
	b := ro.retire(w)
	under := w.active(ro.mono(), ro.lim.Quiet)
	busy := w.writing()
	ro.sweepEntries()
	ro.mu.Unlock()
	wind(b, busy)
	return under
}

// dead is what is left of a worker whose memory is gone.
type dead struct {
	w     *worker
	b     *backend
	conns []*gatedConn
}

// bury forgets the worker: its memory is gone. The caller ends what is left of it after
// it has let go of ro.mu, which is held.
func (ro *Roster) bury(w *worker) dead {
	d := dead{w: w, b: ro.retire(w), conns: slices.Collect(maps.Keys(w.conns))}
	w.gone.Store(true)
	if ro.workers[w.id] == w {
		delete(ro.workers, w.id)
	}
	return d
}

// end cuts off every connection to the worker. No lock is held.
func (d dead) end() {
	if d.b != nil {
		d.b.closeIdle()
	}
	for _, c := range d.conns {
		c.Cut()
	}
}

// Peers lists the instances to which there are connections.
func (ro *Roster) Peers() guestproto.Peers {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	p := guestproto.Peers{Instances: []guestproto.Peer{}}
	for id, w := range ro.workers {
		if len(w.conns) > 0 && len(p.Instances) < guestproto.MaxPeers {
			p.Instances = append(p.Instances, guestproto.Peer{InstanceID: id, Boot: w.boot})
		}
	}
	return p
}

// FenceAll forgets that any instance is awake.
func (ro *Roster) FenceAll() {
	ro.mu.Lock()
	for c := range ro.inFlight {
		c.all = true
	}
	var gone []*backend
	var busy []*gatedConn
	for _, w := range ro.workers {
		w.probe(false)
		gone = append(gone, ro.retire(w))
		busy = append(busy, w.writing()...)
	}
	ro.sweepEntries()
	ro.mu.Unlock()
	for _, b := range gone {
		wind(b, nil)
	}
	wind(nil, busy)
}

// wind closes the idle connections of a retired backend and interrupts the writes
// to its instance, which then ask the host first. No lock is held.
func wind(b *backend, busy []*gatedConn) {
	if b != nil {
		b.closeIdle()
	}
	for _, c := range busy {
		_ = c.Conn.SetWriteDeadline(sock.LongAgo)
	}
}

// writing returns the connections with a write under way. roster.mu is held.
func (w *worker) writing() []*gatedConn {
	var busy []*gatedConn
	for c := range w.conns {
		if c.busy.Load() {
			busy = append(busy, c)
		}
	}
	return busy
}

// sweepEntries forgets entries that say nothing. ro.mu is held.
func (ro *Roster) sweepEntries() {
	for t, e := range ro.entries {
		ro.tidy(t, e)
	}
}

// Wait waits for all that it started. It is closed before.
func (ro *Roster) Wait() { ro.group.Wait() }

// Close closes every connection to instances, and begins nothing any more. Its context has
// ended before.
func (ro *Roster) Close() {
	ro.group.Close()
	ro.FenceAll() // before they are listed: none is used from here on that is not
	ro.mu.Lock()
	var all []*gatedConn
	for _, w := range ro.workers {
		for c := range w.conns {
			all = append(all, c)
		}
	}
	ro.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}
