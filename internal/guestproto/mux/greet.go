package mux

import (
	"context"
	"crypto/rand"
	"net"

	"mvm"
)

// A greeting is one record and its answer outside of any session. After a restore a
// guest's first instructions are its slowest, so what must happen before traffic is
// let in goes in this one exchange; the session, with its goroutines and windows,
// begins later.
const (
	GreetingLen = 80 // bytes of a greeting
	AnswerLen   = 16 // bytes of its answer
)

// Greet sends the greeting as the host and returns the guest's answer, skipping
// whatever an older session left in the stream. conn goes on to be the caller's: a
// Client may follow on it. KindUnavailable when the guest does not answer before
// ctx ends.
func Greet(ctx context.Context, conn net.Conn, body []byte) ([]byte, error) {
	if len(body) != GreetingLen {
		return nil, mvm.Errorf(mvm.KindInvalid, "greet the guest: %d bytes, not %d", len(body), GreetingLen)
	}
	l := newLink(conn)
	stop := context.AfterFunc(ctx, l.interrupt)
	answer, err := greet(l, body)
	if !stop() {
		l.clear()
		return nil, mvm.Errorf(mvm.KindUnavailable, "greet the guest: it does not answer: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "greet the guest: %w", err)
	}
	return answer, nil
}

func greet(l *link, body []byte) ([]byte, error) {
	var n nonce
	rand.Read(n[:])
	if err := l.writeControl(control{kind: kindGreet, nonce: n, body: body}); err != nil {
		return nil, err
	}
	for {
		ctl, err := l.next()
		if err != nil {
			return nil, err
		}
		if ctl.kind == kindAnswer && ctl.nonce == n {
			return ctl.body, nil
		}
	}
}

// OnGreeting sets what answers greetings, with AnswerLen bytes. It is called by the
// goroutine that reads the port and must not block; call OnGreeting before Accept.
func (s *Server) OnGreeting(fn func(body []byte) (answer []byte)) { s.greeted = fn }

// answer answers a greeting; without somebody to do so it is passed over.
func (s *Server) answer(ctl control) error {
	if s.greeted == nil {
		return nil
	}
	return s.l.writeControl(control{kind: kindAnswer, nonce: ctl.nonce, body: s.greeted(ctl.body)})
}
