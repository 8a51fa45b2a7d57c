package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"mvm/internal/egress"
	"mvm/internal/wait"
)

// Times of a connection by TCP.
const (
	readWithin  = 10 * time.Second // a whole question
	writeWithin = 5 * time.Second
	maxPerConn  = 64 // questions
	pauseAfter  = 50 * time.Millisecond
)

// take counts one more, unless there are most already.
func take(n *atomic.Int32, most int32) bool {
	if n.Add(1) <= most {
		return true
	}
	n.Add(-1)
	return false
}

// place takes a place of the guest's, of which the first are its own and the others the
// tenant's too; nil: there is none left.
func place(guest, tenant *atomic.Int32, own, guestMost, tenantMost int32) (leave func()) {
	n := guest.Add(1)
	switch {
	case n > guestMost:
		guest.Add(-1)
		return nil
	case n <= own:
		return func() { guest.Add(-1) }
	case !take(tenant, tenantMost):
		guest.Add(-1)
		return nil
	}
	return func() { guest.Add(-1); tenant.Add(-1) }
}

// begin takes the places of one question of the guest at the address; nil: it has none, or
// there is no room for it.
func (r *Resolver) begin(t *tenant, from netip.Addr) (g *guest, done func()) {
	g = (*t.guests.Load())[from.Unmap()]
	if g == nil {
		return nil, nil
	}
	if !g.limit.Allow() || !g.own.Allow() && !t.limit.Allow() {
		r.opt.Count("limited")
		return nil, nil
	}
	leave := place(&g.asking, &t.asking, ownAsking, maxGuestAsking, maxTenantAsking)
	if leave == nil {
		r.opt.Count("limited")
		return nil, nil
	}
	if !take(&r.asking, maxAsking) {
		leave()
		r.opt.Count("limited")
		return nil, nil
	}
	return g, func() { leave(); r.asking.Add(-1) }
}

// serveUDP answers until the socket is closed.
func (r *Resolver) serveUDP(t *tenant, conn *net.UDPConn) {
	buf := make([]byte, maxQuery+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			wait.For(r.ctx, nil, pauseAfter)
			continue
		case n > maxQuery:
			r.opt.Count("invalid")
			continue
		}
		g, done := r.begin(t, from.Addr())
		if g == nil {
			continue
		}
		b := slices.Clone(buf[:n])
		if !r.loops.Go(func() {
			defer done()
			if out := r.answer(g, b, false); out != nil {
				_, _ = conn.WriteToUDPAddrPort(out, from)
			}
		}) {
			done()
			return
		}
	}
}

// serveTCP answers until the socket is closed.
func (r *Resolver) serveTCP(t *tenant, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			wait.For(r.ctx, nil, pauseAfter)
			continue
		}
		if !r.loops.Go(func() { r.serveConn(t, conn) }) {
			_ = conn.Close()
			return
		}
	}
}

// serveConn answers the questions of one connection, one after the other.
func (r *Resolver) serveConn(t *tenant, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(r.ctx, func() { _ = conn.Close() })
	defer stop()
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	g := (*t.guests.Load())[from.Addr().Unmap()]
	if g == nil {
		return
	}
	leave := place(&g.conns, &t.conns, ownConns, maxGuestConns, maxTenantConns)
	if leave == nil {
		return
	}
	defer leave()
	for range maxPerConn {
		_ = conn.SetReadDeadline(time.Now().Add(readWithin))
		b, err := readFrame(conn, maxQuery)
		if err != nil {
			return
		}
		of, done := r.begin(t, from.Addr()) // its egress may be another by now
		if of == nil {
			return
		}
		out := r.answer(of, b, true)
		done()
		if out == nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

// answer is the answer to a message of the guest; nil: it has none.
func (r *Resolver) answer(g *guest, b []byte, tcp bool) []byte {
	q, code, ok := readQuery(b)
	if !ok {
		r.opt.Count("invalid")
		return nil
	}
	size := q.size
	if tcp {
		size = 1<<16 - 1
	}
	if code != 0 {
		r.opt.Count("invalid")
		return q.pack(reply{code: code}, extra{}, size)
	}
	a, e, result := r.resolve(g, q)
	r.opt.Count(result)
	return q.pack(a, e, size)
}

// resolve finds the answer, and opens what it names where the guest's egress has names.
func (r *Resolver) resolve(g *guest, q query) (reply, extra, string) {
	g.asksNow()
	if !egress.AllowsName(g.list, q.name) {
		if g.refuse(q.name) {
			r.opt.Log.Warn("a guest asked for a name that its pool's egress does not have", "tenant", g.tenant, "instance", g.instance, "name", q.name)
		}
		return reply{code: dnsmessage.RCodeRefused}, extra{edeProhibited, "mvm: the egress of the pool does not have this name"}, "refused"
	}
	a, err := r.up.exchange(r.ctx, q)
	if err != nil {
		r.opt.Log.Debug("ask upstream", "instance", g.instance, "error", err)
		return reply{code: dnsmessage.RCodeServerFailure}, extra{edeUnreachable, "mvm: the host's name servers do not answer"}, "failed"
	}
	for _, to := range a.addrs {
		if !mayLead(g.list, to) || r.own.contain(to) {
			if g.refuse(q.name) {
				r.opt.Log.Warn("an answer names an address that is closed to the guest", "tenant", g.tenant, "instance", g.instance, "name", q.name, "address", to)
			}
			return reply{}, extra{edeBlocked, "mvm: the answer names an address that is closed to guests"}, "dropped"
		}
	}
	if g.named && len(a.addrs) > 0 {
		ctx, cancel := context.WithTimeout(r.ctx, allTimeout)
		defer cancel()
		if err := g.admit(ctx, r.opt.Network, a.addrs, q.name, a.ttl); err != nil {
			r.opt.Log.Warn("open the addresses of a name", "instance", g.instance, "name", q.name, "error", err)
			return reply{code: dnsmessage.RCodeServerFailure}, extra{edeUnreachable, "mvm: the name's addresses could not be opened"}, "failed"
		}
	}
	return a, extra{}, "answered"
}
