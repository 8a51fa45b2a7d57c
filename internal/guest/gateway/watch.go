package gateway

import (
	"context"
	"errors"
	"mvm/internal/guest/gateway/group"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/sock"
	"sync"
	"syscall"
	"time"

	"mvm"
)

// A client that goes away ends what is under way for it. Most requests are answered
// before it could matter, so that is looked for only where one takes longer: for
// Limits.Watch and more.

// clientCtx is a context that ends when the client goes away.
type clientCtx struct{ c *clientConn }

// Deadline says that there is none.
func (x *clientCtx) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is closed when the client goes away.
func (x *clientCtx) Done() <-chan struct{} { return x.c.inner().Done() }

// Err says whether the client has gone away.
func (x *clientCtx) Err() error {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if x.c.within == nil {
		return x.c.r.ctx.Err()
	}
	return x.c.within.Err()
}

// Value is that of the context within.
func (x *clientCtx) Value(key any) any { return x.c.inner().Value(key) }

// inner is the context within, made when it is needed first.
func (c *clientConn) inner() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.within == nil {
		c.within, c.end = context.WithCancelCause(c.r.ctx)
		if c.gone {
			c.end(errGaveUp)
		}
	}
	return c.within
}

var errGaveUp = errors.New("the client has gone away")

// watch has it noticed, during a request, when the client goes away. It can't be while
// there is more of the request to come.
func (c *clientConn) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving && !c.body.Complete() { // one that died in the middle of its body says nothing more
		c.probe()
	}
	if !c.serving || c.watching != nil || c.gone || !c.body.Complete() || c.raw == nil {
		return
	}
	done := make(chan struct{})
	_ = c.Conn.SetReadDeadline(sock.NoDeadline)
	if c.r.group.Go(func() { c.watchGone(done) }) {
		c.watching = done
		c.probe()
	}
}

// watchGone waits until the client ends its side, or sends more, or the watch ends.
func (c *clientConn) watchGone(done chan struct{}) {
	defer close(done)
	more := false
	err := c.raw.Read(func(fd uintptr) bool {
		n, err := sock.Peek(fd)
		more = n > 0
		return err != syscall.EAGAIN
	})
	if err == nil && !more {
		c.giveUp()
	}
}

// giveUp ends what is under way for the client.
func (c *clientConn) giveUp() {
	c.mu.Lock()
	c.gone = true
	if c.end != nil {
		c.end(errGaveUp)
	}
	k := c.link
	c.mu.Unlock()
	if s, ok := c.Conn.(*sock.Conn); ok { // it may have ended its own side alone, and read what comes
		s.Hurry(min(c.r.lim.Send, c.r.lim.Linger))
	}
	if k != nil {
		_ = k.Close()
	}
}

// gaveUp reports whether the client has gone away.
func (c *clientConn) gaveUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// hold notes the connection that the request is under way on: it ends when the client
// goes away. False means that it has.
func (c *clientConn) hold(k *roster.Link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = k
	return !c.gone
}

// letGo undoes hold, and reports whether the connection was left alone.
func (c *clientConn) letGo() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	return !c.gone
}

// beginRequest notes that a request is under way.
func (c *clientConn) beginRequest() {
	c.mu.Lock()
	c.serving = true
	c.mu.Unlock()
	c.r.late.add(c)
}

// endRequest ends the watch: what comes now is for the next request.
func (c *clientConn) endRequest() {
	c.r.late.remove(c)
	c.mu.Lock()
	c.serving = false
	done := c.watching
	c.watching = nil
	c.mu.Unlock()
	if done != nil {
		_ = c.Conn.SetReadDeadline(sock.LongAgo)
		<-done
		c.unlimited()
	}
}

// late finds connections that are late.
type late struct {
	any   chan struct{} // there are connections on the list
	mu    sync.Mutex
	round int
	list  []*clientConn
}

// add puts the connection on the list, where it is not. Its time begins anew, but not that of
// one which keeps others from beginning.
func (l *late) add(c *clientConn) {
	l.mu.Lock()
	if c.lateAt == 0 || !c.fresh.Load() {
		c.lateSince = l.round
	}
	if c.lateAt == 0 {
		l.list = append(l.list, c)
		c.lateAt = len(l.list)
	}
	first := len(l.list) == 1
	l.mu.Unlock()
	if first {
		select {
		case l.any <- struct{}{}:
		default:
		}
	}
}

// remove takes the connection off the list.
func (l *late) remove(c *clientConn) {
	l.mu.Lock()
	l.drop(c)
	l.mu.Unlock()
}

// drop is remove. l.mu is held.
func (l *late) drop(c *clientConn) {
	if c.lateAt == 0 {
		return
	}
	last := len(l.list) - 1
	moved := l.list[last]
	l.list[c.lateAt-1], moved.lateAt = moved, c.lateAt
	l.list[last], c.lateAt = nil, 0
	l.list = l.list[:last]
}

// next begins a round. It takes those off the list that have been on it for the rounds
// after which they are to be watched, and returns them, those that keep others from beginning
// and were on it for a whole round, with those apart that were for as long as a turn may be,
// and whether there are more.
func (l *late) next(watched, turn int) (over, past, slow []*clientConn, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		switch age := l.round - c.lateSince; {
		case age >= watched:
			over = append(over, c)
		case age >= turn && c.fresh.Load():
			past = append(past, c)
		case age > 0 && c.fresh.Load():
			slow = append(slow, c)
		}
	}
	for _, c := range over {
		l.drop(c)
	}
	l.round++
	return over, past, slow, len(l.list) > 0
}

// watchLate looks after connections that are late. It runs while there are connections
// that may become so.
//
// One that has no answer yet keeps others from beginning while the gateway has as much to do
// as it can: more would only delay those that have begun. Where the gateway waits, it is for
// something else.
func (r *Router) watchLate() {
	watched, turn := max(1, int(r.lim.Watch/r.lim.Late)), max(1, int(r.lim.Turn/r.lim.Late))
	for {
		select {
		case <-r.late.any:
		case <-r.ctx.Done():
			return
		}
		r.opt.Busy()
		for more := true; more; {
			if !group.Pause(r.ctx, r.lim.Late) {
				return
			}
			var over, past, slow []*clientConn
			over, past, slow, more = r.late.next(watched, turn)
			busy := r.opt.Busy()
			for _, c := range slow {
				if !busy || c.silent() {
					c.makeRoom()
				}
			}
			for _, c := range past {
				c.makeRoom()
			}
			for _, c := range over {
				c.makeRoom()
				c.watch()
			}
		}
	}
}

// silent reports whether the connection waits for its client.
func (c *clientConn) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read && (!c.serving || !c.body.Complete())
}

var _ context.Context = (*clientCtx)(nil)

// requestCtx is what the roster is asked with: the client's context, with the id of the
// request where it has one, and the address of a client whose key nobody vouches for.
func (x *exchange) requestCtx() context.Context {
	var ctx context.Context = &x.client.ctx
	if x.id != "" {
		ctx = mvm.WithRequest(ctx, x.id)
	}
	if x.target.Key != "" && x.route.AuthMode() == mvm.AuthNone {
		ctx = roster.WithStranger(ctx, x.client.source.Addr())
	}
	return ctx
}
