package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guest/requestkey"
)

// serveHTTP serves the requests of a connection, one after another.
func (c *clientConn) serveHTTP() {
	defer func() {
		if broken := recover(); broken != nil {
			c.r.log.Error("serving a connection panicked", "panic", broken, "stack", string(debug.Stack()))
			c.cutOnClose()
		}
		c.r.late.remove(c)
		c.makeRoom()
		c.freeHead() // closing may take its time
		_ = c.Close()
	}()
	for c.nextRequest() {
	}
}

// nextRequest serves a request, and reports whether another one may come.
func (c *clientConn) nextRequest() bool {
	if err := c.readHead(); err != nil {
		var e *wire.Refusal
		switch {
		case errors.As(err, &e):
			c.refuseHead(e)
		case errors.Is(err, wire.ErrHTTP2):
			c.refuseHTTP2()
		}
		return false
	}
	c.body.Begin(&c.in, c, &c.head.Req)
	if c.head.Req.ContentLength != 0 {
		c.unlimited()
	}
	c.x = exchange{r: c.r, client: c, keep: !c.head.Req.Close}
	c.answerRequest()
	return c.endBody()
}

// answerRequest answers the request that was read.
func (c *clientConn) answerRequest() {
	c.beginRequest()
	defer c.makeRoom()
	defer c.endRequest()
	defer c.x.end()
	c.x.serve(&c.head.Req)
}

// endBody reports whether the connection can be used again. A client that still sends a
// body of which nobody takes more may end it within bounds.
func (c *clientConn) endBody() bool {
	x := &c.x
	if x.taken || c.gone {
		return false
	}
	if !c.body.Complete() && x.keep && !c.body.Unasked() && c.body.Failed() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.r.lim.Linger))
		_, _ = io.CopyN(io.Discard, &c.body, restOfBody)
		c.unlimited()
	}
	if !c.body.Complete() {
		return false
	}
	c.owed.Store(c.in.Len() > 0)
	c.in.Shrink()
	c.head.Free(&c.r.heads)
	c.head.Shrink()
	return x.keep && c.r.ctx.Err() == nil
}

// restOfBody bounds what is read of a body after the answer, to keep the connection.
const restOfBody = 256 << 10

// readHead reads the head of the next request. The error is a *wire.Refusal, or says that
// nothing is to be answered.
func (c *clientConn) readHead() error {
	if c.first = c.head.Req.Method == ""; !c.first {
		c.readBy(c.r.lim.ClientIdle, false)
	}
	return c.head.ReadFrom(&c.in, c.r.lim.HeadBytes, &c.r.heads, c)
}

// Started implements Starter.
func (c *clientConn) Started() {
	if !c.first { // its time has been running since the connection came
		c.readBy(c.r.lim.Head, true)
	}
}

// freeHead gives back the memory of heads.
func (c *clientConn) freeHead() {
	c.in.End()
	c.head.Free(&c.r.heads)
	c.head.Forget()
}

// readBy has reading fail after the time. Unless it is exact, it may be an eighth less.
func (c *clientConn) readBy(limit time.Duration, exact bool) {
	until := time.Now().Add(limit)
	if !exact && !c.until.IsZero() && c.until.Before(until) && until.Sub(c.until) < limit/8 {
		return
	}
	c.until = until
	_ = c.Conn.SetReadDeadline(until)
}

// unlimited has reading take as long as it may.
func (c *clientConn) unlimited() {
	c.until = time.Time{}
	_ = c.Conn.SetReadDeadline(sock.NoDeadline)
}

// refuseHTTP2 tells the client in its own protocol that HTTP/1.1 is served here.
func (c *clientConn) refuseHTTP2() {
	c.r.log.Debug("connection refused", "port", c.port, "source", c.source, "error", wire.ErrHTTP2)
	_ = c.write(wire.AppendGoAway(nil, wire.NoHTTP2))
}

// refuseHead answers a request that can't be read; the connection ends with it.
func (c *clientConn) refuseHead(e *wire.Refusal) {
	c.r.log.Debug("request refused", "port", c.port, "source", c.source, "error", e)
	req := &c.head.Req
	req.Method, req.ProtoMajor, req.ProtoMinor = http.MethodGet, 1, 1
	x := &exchange{r: c.r, client: c}
	_ = c.write(append(x.appendRefusal(nil, req, e), e.Text+"\n"...))
}

// write sends to the client. One that took nothing for Limits.Send is cut off.
func (c *clientConn) write(b []byte) error {
	_, err := c.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.cutOnClose()
	}
	return err
}

// outSize is what a connection keeps for heads.
const outSize = 4 << 10

// send sends a head to the client, and keeps its memory for the next one.
func (c *clientConn) send(b []byte) error {
	if cap(b) <= outSize {
		c.out = b[:0]
	}
	return c.write(b)
}

// SayContinue tells the client to send its body, unless it has the answer already.
func (c *clientConn) SayContinue() error {
	c.word.Lock()
	defer c.word.Unlock()
	if c.x.began || c.x.continued {
		return nil
	}
	c.x.continued = true
	return c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// begin notes that the answer begins. A client that waits for the word to send its body, and
// gets the answer instead, may send the body or not: the connection ends.
func (x *exchange) begin() {
	c := x.client
	c.word.Lock()
	x.began = true
	if c.body.Waited() && !x.continued {
		x.keep = false
	}
	c.word.Unlock()
}

// requestHeader is where a client says the id of its request, which is a stranger's word.
const requestHeader = "X-Request-Id"

// serve routes one request.
func (x *exchange) serve(req *http.Request) {
	c, r := x.client, x.r
	x.id = mvm.RequestID(req.Header.Get(requestHeader))
	if v := req.Header["Expect"]; len(v) > 0 && !wire.HasToken(v, "100-continue") {
		x.refuse(req, wire.Refused(http.StatusExpectationFailed, 0, "the expectation is not known"))
		return
	}
	if req.Method == http.MethodConnect {
		x.refuse(req, wire.Refused(http.StatusMethodNotAllowed, 0, "CONNECT is not served here"))
		return
	}
	t := r.table.Load()
	route, err := t.RouteOf(c.peer(), req)
	if err != nil {
		x.refuse(req, err)
		return
	}
	x.port, x.route = route.To.TargetPort, route
	user, err := t.Authenticate(c.peer(), req, route, r.opt.Now())
	if err == nil {
		x.user = user
		err = x.choose(req)
	}
	if err != nil {
		r.log.Debug("request refused", "route", route.Name, "request", x.id, "error", err)
		x.refuse(req, err)
		return
	}
	table.TellUser(req, route, x.target.Key, x.user)
	x.pass(req)
}

// key returns the request's key where the route chooses by key.
func (x *exchange) key(req *http.Request) (string, error) {
	s := x.route.To.Selector
	if s.Kind != mvm.SelectByKey {
		return "", nil
	}
	var body []byte
	if requestkey.ReadsBody(s.From) {
		var err error
		if body, err = x.readBody(req); err != nil {
			return "", err
		}
	}
	return table.KeyOf(x.route, x.user, req, body)
}

// choose finds out which instance the request is for.
func (x *exchange) choose(req *http.Request) error {
	key, err := x.key(req)
	if err == nil {
		x.target = targetOf(x.route.To, key)
	}
	return err
}
