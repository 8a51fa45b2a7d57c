package mux

import (
	"context"
	"crypto/rand"
	"net"
	"time"

	"mvm"
)

// The host repeats its Open this often until the guest answers; a guest that
// starts says Hello, which makes the host repeat at once.
const (
	firstRepeat = 250 * time.Millisecond
	lastRepeat  = 5 * time.Second
)

// Client begins a session as the host, over a fresh connection to the guest's
// port. It waits until the guest answers or ctx ends (KindUnavailable), skipping
// whatever older sessions left in the stream. It owns conn from then on, and
// closes it on an error.
func Client(ctx context.Context, conn net.Conn) (*Session, error) {
	l := newLink(conn)
	n, err := handshake(ctx, l)
	if err != nil {
		conn.Close()
		return nil, mvm.Errorf(mvm.KindUnavailable, "begin a session with the guest: %w", err)
	}
	c := &sessionConn{l: l, over: make(chan struct{}), tally: newTally(), end: func() { conn.Close() }, control: func(ctl control) error {
		if ctl.kind == kindAccept && ctl.nonce != n {
			return nil // of an older session, cannot happen after ours; harmless
		}
		return errAgain
	}}
	s, err := newSession(c, true)
	if err != nil {
		conn.Close()
	}
	return s, err
}

// handshake sends Open until Accept with the same nonce comes, and returns the nonce.
func handshake(ctx context.Context, l *link) (nonce, error) {
	var n nonce
	rand.Read(n[:])
	stop := context.AfterFunc(ctx, l.interrupt)
	defer stop()
	again, quit, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		repeatOpen(l, n, again, quit)
	}()
	err := awaitAccept(l, n, again)
	close(quit)
	if err != nil {
		l.interrupt()
	}
	<-done // a repeat under way must be complete before data may follow
	if !stop() {
		return n, context.Cause(ctx)
	}
	return n, err
}

func repeatOpen(l *link, n nonce, again, quit <-chan struct{}) {
	wait := firstRepeat
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		if l.writeControl(control{kind: kindOpen, nonce: n}) != nil {
			return // the reader sees it too
		}
		select {
		case <-quit:
			return
		case <-again:
		case <-t.C:
			wait = min(2*wait, lastRepeat)
			t.Reset(wait)
		}
	}
}

func awaitAccept(l *link, n nonce, again chan<- struct{}) error {
	for {
		ctl, err := l.next()
		switch {
		case err != nil:
			return err
		case ctl.kind == kindAccept && ctl.nonce == n:
			return nil
		case ctl.kind == kindHello:
			select {
			case again <- struct{}{}:
			default:
			}
		}
	}
}
