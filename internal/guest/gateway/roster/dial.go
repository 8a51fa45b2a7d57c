package roster

import (
	"context"
	"errors"
	"mvm/internal/guest/gateway/group"
	"net"
	"syscall"
	"time"

	"mvm"
)

// Times of connecting. A SYN that is lost while a bridge port comes up would cost
// the kernel's first retry, a second: a further try starts long before.
const (
	secondTry     = 150 * time.Millisecond // doubles with each further try
	maxTries      = 5
	firstRefused  = 10 * time.Millisecond
	longestRefuse = 200 * time.Millisecond
)

// dialError says that no connection came about: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// proof is the first connection to a port of a backend, on its way. err may be read once
// done is closed.
type proof struct {
	done chan struct{}
	err  error
}

// connect connects to the backend's instance, or where pooled ones will do takes a link that
// is offered meanwhile. Its errors are *dialError.
//
// The first connection to a port of a backend is tried several times at once, for its
// machine may just be coming up; all others to that port wait for it. After that each is
// one try, a bounded number of them at a time to that port, the others queue in the order
// of their coming.
func (ro *Roster) connect(ctx context.Context, b *backend, p *lane, pooled bool) (*gatedConn, *Link, error) {
	if !ro.group.Enter() {
		return nil, nil, &dialError{net.ErrClosed}
	}
	defer ro.group.Leave()
	ctx, cancel := context.WithTimeoutCause(ctx, ro.lim.Hold, ErrCrowded)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	conn, k, err := ro.connection(ctx, b, p, pooled)
	if k != nil {
		return nil, k, nil
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), ErrCrowded) {
			err = ErrCrowded
		}
		return nil, nil, &dialError{mvm.Errorf(mvm.KindUnavailable, "connect to instance %s: %w", b.w.id, err)}
	}
	b.hear(p, ro.mono())
	c, err := ro.gate(b.w, conn)
	return c, nil, err
}

// connection makes the first connection, or one in its turn, or returns a link.
func (ro *Roster) connection(ctx context.Context, b *backend, p *lane, pooled bool) (net.Conn, *Link, error) {
	if conn, err := ro.prove(ctx, b, p); conn != nil || err != nil {
		return conn, nil, err
	}
	if k, err := ro.turn(ctx, p, pooled); k != nil || err != nil {
		return nil, k, err
	}
	defer func() { <-p.dials }()
	conn, err := ro.reconnect(ctx, p)
	return conn, nil, err
}

// ErrCrowded ends a wait in the queue for a connection to an instance.
var ErrCrowded = errors.New("too many requests are waiting for a connection to the instance")

// prove makes the first connection to a port of the backend, or waits until somebody else
// has: then it returns neither a connection nor an error. One port says nothing of
// another: it may be closed while that one serves.
func (ro *Roster) prove(ctx context.Context, b *backend, at *lane) (net.Conn, error) {
	for {
		b.lanes.mu.Lock()
		if at.proven {
			b.lanes.mu.Unlock()
			return nil, nil
		}
		p := at.proof
		if p == nil {
			p = &proof{done: make(chan struct{})}
			at.proof = p
			b.lanes.mu.Unlock()
			return ro.tryProof(ctx, b, at, p)
		}
		b.lanes.mu.Unlock()
		select {
		case <-p.done:
			if p.err != nil {
				return nil, p.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryProof makes the first connection to a port of the backend. A failure counts for all
// who wait for it, unless it is the end of this request only.
func (ro *Roster) tryProof(ctx context.Context, b *backend, at *lane, p *proof) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, ro.lim.Connect)
	defer cancel()
	conn, err := ro.patiently(limited, at.addr, ro.race)
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	at.proof = nil
	if err == nil {
		at.proven = true
	} else if ctx.Err() == nil || b.ctx.Err() != nil {
		p.err = err
	}
	close(p.done)
	return conn, err
}

// turn waits for the turn to connect, which is a place in the lane's dials, or returns a
// link that is offered before.
func (ro *Roster) turn(ctx context.Context, p *lane, pooled bool) (*Link, error) {
	offers := p.offers
	if !pooled {
		offers = nil
	}
	for {
		select {
		case k := <-offers:
			if k.usable() {
				return k, nil
			}
			_ = k.Close()
		case p.dials <- struct{}{}:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reconnect connects to a backend that took connections before. A failure while others
// connect to the port or are answered is one of that try only: it is made again.
func (ro *Roster) reconnect(ctx context.Context, p *lane) (net.Conn, error) {
	for {
		began := ro.mono()
		limited, cancel := context.WithTimeout(ctx, ro.lim.Reconnect)
		conn, err := ro.dial(limited, "tcp", p.addr)
		timedOut := limited.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || time.Duration(p.heard.Load()) < began {
			return conn, err
		}
		if !timedOut { // it refuses: its service may come up again
			return ro.patiently(ctx, p.addr, ro.once)
		}
	}
}

// once is a single try.
func (ro *Roster) once(ctx context.Context, addr string) (net.Conn, error) {
	return ro.dial(ctx, "tcp", addr)
}

// patiently connects, and while the port refuses tries again for Limits.Refused.
func (ro *Roster) patiently(ctx context.Context, addr string, try func(context.Context, string) (net.Conn, error)) (net.Conn, error) {
	began, pause := time.Now(), firstRefused
	for {
		conn, err := try(ctx, addr)
		if err == nil || !notYet(err) || time.Since(began)+pause > ro.lim.Refused {
			return conn, err
		}
		if !group.Pause(ctx, pause) {
			return nil, err
		}
		pause = min(2*pause, longestRefuse)
	}
}

// notYet reports whether the error is one of a machine that is just coming up.
func notYet(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH)
}

// race connects with further tries that start while the former ones still wait; the
// first answer counts, and the others are given up before it returns.
func (ro *Roster) race(ctx context.Context, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, maxTries)
	try := func() {
		conn, err := ro.dial(ctx, "tcp", addr)
		results <- result{conn, err}
	}
	go try()
	under, tries, wait := 1, 1, secondTry
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var first result
	for first == (result{}) {
		select {
		case first = <-results:
			under--
		case <-timer.C:
			if tries < maxTries {
				go try()
				under, tries, wait = under+1, tries+1, 2*wait
				timer.Reset(wait)
			}
		}
	}
	cancel()
	for range under {
		if late := <-results; late.conn != nil {
			_ = late.conn.Close()
		}
	}
	return first.conn, first.err
}
