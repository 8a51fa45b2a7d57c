package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Busy is exported for tests of this package only.
var Busy = busy

// Known counts targets and instances on the roster.
func (r *Router) Known() (targets, instances int) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	return len(r.roster.entries), len(r.roster.workers)
}

// Stuck reports whether some write to an instance has been under way for a while.
func (r *Router) Stuck() bool {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	for _, w := range r.roster.workers {
		for s := range w.streams {
			if len(w.writing()) > 0 && r.roster.mono()-time.Duration(s.last.Load()) > 50*time.Millisecond {
				return true
			}
		}
	}
	return false
}

// Links counts the connections to instances.
func (r *Router) Links() int {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	n := 0
	for _, w := range r.roster.workers {
		n += len(w.conns)
	}
	return n
}

// HeadMemory is how much memory there is for large heads.
func (r *Router) HeadMemory() int { return r.heads.left() }

// ReadRequests has a connection's server read the bytes of a client, and calls each for
// every request with its body, or with the error that reading it ended with. It returns
// the status that ended it, 0 where the bytes did.
func ReadRequests(conn net.Conn, each func(req *http.Request, body []byte, err error)) int {
	c := &clientConn{Conn: conn, r: New(Options{}), head: &head{}}
	c.in.begin(c, make([]byte, inboxSize), c.r.lim.HeadBytes+1, &c.r.heads)
	defer c.freeHead()
	for {
		if err := c.readHead(); err != nil {
			var e *refusal
			if errors.As(err, &e) {
				return e.status
			}
			return 0
		}
		req := &c.head.req
		c.body.begin(&c.in, c, req)
		body, err := io.ReadAll(req.Body)
		each(req, body, err)
		if err != nil || req.Close {
			return 0
		}
	}
}

// ReadAnswer has the head of an answer read in place, and says whether it was.
func ReadAnswer(raw []byte, method string) (*http.Response, bool) {
	in := bufio.NewReaderSize(bytes.NewReader(raw), linkBuffer)
	var a answerHead
	res, err := a.read(in, &http.Request{Method: method})
	return res, err == nil && res == &a.res
}
