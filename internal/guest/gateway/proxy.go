package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"syscall"

	"mvm"
)

type exchangeKey struct{}

// exchange is one request on its way to an instance and back.
type exchange struct {
	r        *Router
	target   target
	port     int
	lease    *lease
	buffered []byte // the whole body, where a key was looked for in it
	has      bool   // buffered is the body
	budgeted int    // bytes to give back
}

func (x *exchange) end() {
	if x.lease != nil {
		x.lease.end()
	}
	x.r.bodies.give(x.budgeted)
}

func (r *Router) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTripper{r},
		FlushInterval:  -1, // streams pass at once
		BufferPool:     &r.buffers,
		ErrorLog:       slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		ModifyResponse: markStream,
		ErrorHandler:   r.fail,
	}
}

// rewrite makes the request to the instance: everything as it came, but that who
// sent it is told by the gateway alone.
func rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "http"
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	p.Out.Host = p.In.Host
	p.Out.Header.Del("X-Real-Ip")
	p.SetXForwarded()
}

// fail answers a request that got no response.
func (r *Router) fail(w http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() != nil && !errors.Is(err, errBroken) {
		refuse(w, req, refused(503, defaultRetry, "the request was given up")) // the client is gone
		return
	}
	r.complain("request not answered by an instance", "path", printable(req.URL.Path, 200), "request", mvm.RequestFrom(req.Context()), "error", err)
	refuse(w, req, err)
}

// roundTripper finds an instance for a request and sends it there.
type roundTripper struct{ r *Router }

// RoundTrip sends the request. It sends it again, once, when nothing was sent: the
// instance takes no connection any more, or the pooled connection had ended. And once
// where a pooled connection ended after it was sent and before a byte of the answer
// came, if to do it twice is the same as once.
func (rt roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("request without an exchange")
	}
	body := &keptBody{ReadCloser: req.Body}
	for again := false; ; again = true {
		l, err := rt.r.roster.lease(req.Context(), x.target)
		if err != nil {
			return nil, err
		}
		x.lease = l
		a := newAttempt(req.Context())
		if req.Body != nil && !x.has {
			a.onEnd = func() { unblock(req, body) }
		}
		res, err := l.b.transport.RoundTrip(x.outgoing(req, l, body).WithContext(a.ctx))
		if err == nil {
			return res, nil
		}
		a.cancel(err)
		if a.isBroken() {
			err = errors.Join(errBroken, err)
		}
		var unconnected *dialError
		dialing := errors.As(err, &unconnected)
		gaveUp := req.Context().Err() != nil || errors.Is(err, errCrowded)
		final := again || gaveUp || dialing && l.fresh() || !dialing && !x.repeatable(req, body, a, l)
		if !gaveUp && (dialing || unanswering(err)) {
			l.doubt()
		}
		gone := l.b.w.gone.Load()
		l.end()
		x.lease = nil
		if final {
			return nil, explain(err, dialing, gone)
		}
	}
}

// unblock ends a read of the request's body: the instance's connection has ended, and
// the transport would wait for the client.
func unblock(req *http.Request, body *keptBody) {
	if sent, ok := body.ReadCloser.(*sentBody); ok && sent.whole.Load() {
		return
	}
	if c, ok := req.Context().Value(clientKey{}).(*clientConn); ok {
		_ = c.SetReadDeadline(longAgo)
	}
}

// unanswering reports whether the error is one of a connection whose other end did not
// answer, and not one that it ended.
func unanswering(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH)
}

// repeatable reports whether the request may be sent a second time after the attempt.
func (x *exchange) repeatable(req *http.Request, body *keptBody, a *attempt, l *lease) bool {
	if req.Body != nil && !x.has && body.read.Load() {
		return false // some of it is lost
	}
	sent, reused, answered := a.state()
	if !sent {
		return true
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return reused && !answered && !l.b.w.gone.Load()
	}
	return false
}

// explain says in the client's terms why an instance gave no response.
func explain(err error, dialing, gone bool) error {
	if errors.Is(err, errCrowded) {
		return &unanswered{refused(503, defaultRetry, "%s", errCrowded), err}
	}
	if gone && !dialing {
		return &unanswered{refused(http.StatusBadGateway, 0, "the instance ended before it answered"), err}
	}
	if dialing {
		return &unanswered{refused(503, defaultRetry, "the instance takes no connections"), err}
	}
	return &unanswered{refused(http.StatusBadGateway, 0, "the instance broke off the connection"), err}
}

// unanswered is a refusal with its cause, for the log.
type unanswered struct {
	*refusal
	cause error
}

func (e *unanswered) Error() string   { return e.text + ": " + e.cause.Error() }
func (e *unanswered) Unwrap() []error { return []error{e.refusal, e.cause} }

// outgoing is the request for the lease's instance.
func (x *exchange) outgoing(req *http.Request, l *lease, body *keptBody) *http.Request {
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Host = l.addr(x.port)
	out.URL = &u
	switch {
	case x.has:
		out.Body, _ = x.replay()
		out.GetBody, out.ContentLength, out.TransferEncoding = x.replay, int64(len(x.buffered)), nil
	case req.Body != nil:
		out.Body = body
	}
	return out
}

// keptBody is a body that a failed try does not close, and that knows whether
// something was read of it.
type keptBody struct {
	io.ReadCloser
	read atomic.Bool
}

// Read reads from the client.
func (b *keptBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// Close does nothing: the proxy closes the body at the request's end.
func (b *keptBody) Close() error { return nil }

// markStream makes a connection that was upgraded count as a stream.
func markStream(res *http.Response) error {
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	x, ok := res.Request.Context().Value(exchangeKey{}).(*exchange)
	back, writable := res.Body.(io.ReadWriteCloser)
	if !ok || !writable {
		return errors.New("upgrade without a connection")
	}
	client, _ := res.Request.Context().Value(clientKey{}).(*clientConn)
	if client != nil {
		client.plain.Store(true)
	}
	res.Body = &upgraded{ReadWriteCloser: back, stream: x.lease.asStream(), client: client}
	return nil
}

// upgraded is the instance's side of an upgraded connection.
type upgraded struct {
	io.ReadWriteCloser
	stream *stream
	client *clientConn
}

// Read reads from the instance. Where that is cut off, so is the client.
func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && u.client != nil {
		u.client.cutOnClose()
	}
	if n > 0 {
		u.stream.touch()
	}
	return n, err
}

// Write sends to the instance, once it is awake.
func (u *upgraded) Write(p []byte) (int, error) {
	u.stream.touch()
	return u.ReadWriteCloser.Write(p)
}

// CloseWrite ends the sending side.
func (u *upgraded) CloseWrite() error {
	if cw, ok := u.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
