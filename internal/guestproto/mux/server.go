package mux

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"mvm"
)

// Server is the guest's end of the port, for as long as the port is open. Each
// host that connects gives a new Session and ends the one before.
type Server struct {
	l *link
	// greeted answers a greeting; see OnGreeting.
	greeted func(body []byte) (answer []byte)

	mu   sync.Mutex // guards next and cur
	next *nonce     // an Open that ended the session before
	cur  *Session
	live nonce // of cur
}

// NewServer makes the guest's end over a Port (or, in tests, a net.Conn). It owns
// the port. Nothing is sent or read before Accept.
func NewServer(port interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}) *Server {
	return &Server{l: newLink(port)}
}

// Accept waits until the session before is over, if there was one, and returns the
// next, however long that takes. It fails when ctx ends (the Server can go on) or
// the port fails. One goroutine calls it, in a loop:
//
//	for {
//		s, err := srv.Accept(ctx)
//		if err != nil { return err }
//		serve(s) // until s.Accept fails; then s.Close
//	}
func (s *Server) Accept(ctx context.Context) (*Session, error) {
	if err := s.waitCurrent(ctx); err != nil {
		return nil, err
	}
	s.l.clear()
	stop := context.AfterFunc(ctx, s.l.interrupt)
	defer stop()
	sess, err := s.acceptNext()
	if !stop() {
		if sess != nil {
			sess.Close()
		}
		return nil, mvm.Errorf(mvm.KindCanceled, "wait for the host: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "wait for the host: %w", err)
	}
	return sess, nil
}

func (s *Server) waitCurrent(ctx context.Context) error {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	if cur == nil {
		return nil
	}
	select {
	case <-cur.Done():
		return nil
	case <-ctx.Done():
		return mvm.Errorf(mvm.KindCanceled, "wait for the session to end: %w", context.Cause(ctx))
	}
}

// acceptNext answers the Open that ended the last session, or says Hello and
// answers the next one.
func (s *Server) acceptNext() (*Session, error) {
	s.mu.Lock()
	next := s.next
	s.next = nil
	s.mu.Unlock()
	if next != nil {
		return s.begin(*next)
	}
	hello := make(chan struct{})
	go func() { // no host may be there to take it
		defer close(hello)
		_ = s.l.writeControl(control{kind: kindHello})
	}()
	n, err := s.awaitOpen()
	s.l.raw.SetWriteDeadline(time.Unix(1, 0))
	<-hello // perhaps cut, which the Accept record after it allows
	if err != nil {
		return nil, err
	}
	if err := s.l.raw.SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return s.begin(n)
}

func (s *Server) awaitOpen() (nonce, error) {
	for {
		ctl, err := s.l.next()
		switch {
		case errors.Is(err, ErrHostAway):
		case err != nil:
			return nonce{}, err
		case ctl.kind == kindOpen:
			return ctl.nonce, nil
		case ctl.kind == kindGreet:
			if err := s.answer(ctl); err != nil {
				return nonce{}, err
			}
		}
	}
}

func (s *Server) begin(n nonce) (*Session, error) {
	if err := s.l.writeControl(control{kind: kindAccept, nonce: n}); err != nil {
		return nil, err
	}
	c := &sessionConn{l: s.l, over: make(chan struct{}), end: s.l.interrupt, control: s.inSession}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = n
	sess, err := newSession(c, false)
	s.cur = sess
	return sess, err
}

// inSession handles a record that arrives within a session: the host's repeated
// Open of this session is nothing new, another one ends the session.
func (s *Server) inSession(ctl control) error {
	if ctl.kind == kindGreet {
		return s.answer(ctl)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctl.kind != kindOpen || ctl.nonce == s.live {
		return nil
	}
	s.next = &ctl.nonce
	return errReplaced
}

// Close ends the session and closes the port.
func (s *Server) Close() error {
	err := s.l.raw.Close()
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	if cur != nil {
		cur.Close()
	}
	return err
}
