package gateway

import (
	"context"
	"errors"
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
	knownConnect  = 2 * time.Second // to an instance that took connections before
	firstRefused  = 10 * time.Millisecond
	longestRefuse = 200 * time.Millisecond
)

var noDeadline time.Time

// dialError says that no connection came about: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialer returns the way to connect to the backend's instance. The errors are
// *dialError.
func (ro *roster) dialer(b *backend) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		if !ro.group.enter() {
			return nil, &dialError{net.ErrClosed}
		}
		defer ro.group.leave()
		limit, patience := ro.lim.Connect, ro.lim.Refused
		if b.proven.Load() {
			limit, patience = min(limit, knownConnect), 0
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		defer context.AfterFunc(b.ctx, cancel)()
		conn, err := ro.connect(ctx, addr, patience)
		if err != nil {
			return nil, &dialError{mvm.Errorf(mvm.KindUnavailable, "connect to instance %s: %w", b.w.id, err)}
		}
		b.proven.Store(true)
		return ro.gate(b.w, conn)
	}
}

// connect connects, and while the port refuses tries again for as long as patience.
func (ro *roster) connect(ctx context.Context, addr string, patience time.Duration) (net.Conn, error) {
	began, pause := time.Now(), firstRefused
	for {
		conn, err := ro.race(ctx, addr)
		if err == nil || !notYet(err) || time.Since(began)+pause > patience {
			return conn, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
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
func (ro *roster) race(ctx context.Context, addr string) (net.Conn, error) {
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
