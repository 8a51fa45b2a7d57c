package gateway

import (
	"context"
	"errors"
	"io"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"

	"mvm"
)

// exchange is one request on its way to an instance and back.
type exchange struct {
	r        *Router
	client   *clientConn
	target   roster.Target
	port     int
	route    mvm.Route
	id       string // the client's for the request, or ""
	user     string // whom a token names
	lease    *roster.Lease
	buffered []byte // the whole body, where a key was looked for in it
	has      bool   // buffered is the body
	budgeted int    // bytes to give back

	began     bool // the answer; client.word
	continued bool // the client was told to send its body; client.word
	keep      bool // the connection can be used again
	taken     bool // the connection is no longer one of HTTP
}

func (x *exchange) end() {
	if x.lease != nil {
		x.lease.End()
	}
	x.r.bodies.Give(x.budgeted)
	x.buffered, x.budgeted = nil, 0 // the connection may be idle for long
}

// pass sends the request to an instance, and the client its answer.
func (x *exchange) pass(req *http.Request) {
	a, err := x.answer(req)
	if err != nil {
		x.fail(req, err)
		return
	}
	defer a.end()
	if a.res.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade(req, a)
		return
	}
	if err := a.pass(x, req); err != nil {
		x.breakOff(req)
	}
}

// breakOff sees to it that an answer which is broken off can't be taken for a whole one:
// where its end is the connection's end, the client gets a reset.
func (x *exchange) breakOff(req *http.Request) {
	x.keep = false
	if !req.ProtoAtLeast(1, 1) {
		x.client.cutOnClose()
	}
}

// fail answers a request that got no response.
func (x *exchange) fail(req *http.Request, err error) {
	if x.client.gaveUp() {
		x.refuse(req, wire.Refused(503, wire.DefaultRetry, "the request was given up"))
		return
	}
	if err := x.client.body.Failed(); err != nil && !errors.Is(err, io.EOF) {
		x.refuse(req, refusedBody(err))
		return
	}
	x.r.complain("request not answered by an instance", "path", wire.Printable(req.URL.Path, 200), "request", x.id, "error", err)
	x.refuse(req, err)
}

// answer finds an instance for the request and returns its answer. It sends the request
// again, once, when nothing was sent: the instance takes no connection any more, or the
// pooled connection had ended. And once where a pooled connection ended after it was
// sent and before a byte of the answer came, if to do it twice is the same as once.
func (x *exchange) answer(req *http.Request) (*answer, error) {
	ctx := x.requestCtx()
	for again := false; ; again = true {
		l, err := x.r.roster.Lease(ctx, x.target)
		if err != nil {
			return nil, err
		}
		x.lease = l
		began := l.Mono()
		a, err := x.try(ctx, req, again)
		if err == nil {
			if x.target.Key != "" && a.res.StatusCode < 400 {
				l.Answered()
			}
			return a, nil
		}
		gaveUp := x.client.gaveUp() || errors.Is(err, roster.ErrCrowded)
		dialing := a == nil
		serves := l.Serves(x.port, began)
		final := again || gaveUp || dialing && (serves || l.Fresh()) || !dialing && !x.repeatable(req, a)
		if !gaveUp && !serves && (dialing || unanswering(err)) {
			l.Doubt()
		}
		gone := l.Gone()
		l.End()
		x.lease = nil
		if final {
			return nil, explain(err, dialing, gone)
		}
	}
}

// try sends the request over one connection and reads the head of the answer. Where it
// failed before there was a connection it returns no answer, else one that has ended.
func (x *exchange) try(ctx context.Context, req *http.Request, again bool) (*answer, error) {
	l := x.lease
	use := roster.UseBrief
	switch {
	case again:
		use = roster.UseNone
	case safe(req.Method) && req.ContentLength == 0:
		use = roster.UseAll
	}
	link, err := l.Link(ctx, x.port, use)
	if err != nil {
		return nil, err
	}
	a := &answer{link: link, client: x.client, body: keptBody{Reader: req.Body, client: x.client}}
	if !x.client.hold(link) {
		a.end()
		return a, errGaveUp
	}
	if err := x.ask(a, req); err != nil {
		a.end()
		return a, err
	}
	if err := a.readHead(x, req); err != nil {
		a.end()
		return a, err
	}
	return a, nil
}

// unanswering reports whether the error is one of a connection whose other end did not
// answer, and not one that it ended.
func unanswering(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH)
}

// repeatable reports whether the request may be sent a second time after the try.
func (x *exchange) repeatable(req *http.Request, a *answer) bool {
	if !a.unread {
		return false // some of the body is lost
	}
	k := a.link
	if k.Unsent() {
		return true
	}
	return safe(req.Method) && k.Ended()
}

// safe reports whether to do it twice is the same as once.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// explain says in the client's terms why an instance gave no response.
func explain(err error, dialing, gone bool) error {
	if errors.Is(err, roster.ErrCrowded) {
		return &unanswered{wire.Refused(503, wire.DefaultRetry, "%s", roster.ErrCrowded), err}
	}
	if gone && !dialing {
		return &unanswered{wire.Refused(http.StatusBadGateway, 0, "the instance ended before it answered"), err}
	}
	if dialing {
		return &unanswered{wire.Refused(503, wire.DefaultRetry, "the instance takes no connections"), err}
	}
	return &unanswered{wire.Refused(http.StatusBadGateway, 0, "the instance broke off the connection"), err}
}

// unanswered is a refusal with its cause, for the log.
type unanswered struct {
	*wire.Refusal
	cause error
}

func (e *unanswered) Error() string   { return e.Text + ": " + e.cause.Error() }
func (e *unanswered) Unwrap() []error { return []error{e.Refusal, e.cause} }

// keptBody is a request's body for one try to send it. Once it is closed no reading
// begins, and it is known whether any did. Each Read has Limits.Body.
type keptBody struct {
	io.Reader
	client *clientConn
	state  atomic.Int32
}

// States of a keptBody.
const (
	bodyWhole int32 = iota
	bodyRead
	bodyClosed
)

// Read reads from the client.
func (b *keptBody) Read(p []byte) (int, error) {
	if !b.state.CompareAndSwap(bodyWhole, bodyRead) && b.state.Load() == bodyClosed {
		return 0, http.ErrBodyReadAfterClose
	}
	c := b.client
	c.readBy(c.r.lim.Body, false)
	if b.state.Load() == bodyClosed { // who closed it waits for the end of this Read
		_ = c.SetReadDeadline(sock.LongAgo)
	}
	n, err := b.Reader.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && b.state.Load() != bodyClosed {
		err = errSlowBody
		c.body.Fail(err)
	}
	return n, err
}

// close ends reading, and reports whether the body is still whole.
func (b *keptBody) close() bool { return b.state.Swap(bodyClosed) == bodyWhole }
