package gateway

import (
	"context"
	"errors"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// attempt is one try to send a request to an instance. It sees to it that the transport
// sends no request a second time by itself: whether that may be is decided in RoundTrip.
type attempt struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	answered atomic.Bool // a byte came on its connection
	onEnd    func()      // where given, called when its connection ends before that

	mu     sync.Mutex
	reused bool
	sent   bool // something may have been sent
	broken bool // its connection ended before a byte of the answer came
}

// errBroken is why an attempt is over whose connection ended before a byte of the answer.
var errBroken = errors.New("the connection ended before the answer")

func newAttempt(ctx context.Context) *attempt {
	a := &attempt{}
	ctx, a.cancel = context.WithCancelCause(ctx)
	a.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: a.gotConn})
	return a
}

// gotConn binds the attempt to the connection that the transport chose for it.
func (a *attempt) gotConn(info httptrace.GotConnInfo) {
	a.mu.Lock()
	a.reused = info.Reused
	a.mu.Unlock()
	if c, ok := info.Conn.(*gatedConn); ok {
		c.begin(a)
	}
}

// send reports whether the request may be sent on its connection, and notes that it was.
func (a *attempt) send() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = a.sent || !a.broken
	return !a.broken
}

// end notes that the connection ended. Where no byte of the answer had come, the
// attempt is over before the transport can make another of it.
func (a *attempt) end(err error) {
	if a.answered.Load() {
		return
	}
	a.mu.Lock()
	a.broken = true
	a.mu.Unlock()
	a.cancel(err)
	if a.onEnd != nil {
		a.onEnd()
	}
}

func (a *attempt) isBroken() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

func (a *attempt) state() (sent, reused, answered bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent, a.reused, a.answered.Load()
}
