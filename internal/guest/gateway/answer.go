package gateway

import (
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// answer is an instance's answer as it comes over a link.
type answer struct {
	ro     *roster
	link   *link
	res    *http.Response
	body   keptBody    // of the request
	unread bool        // nothing was read of it; once ended
	upload *upload     // nil: the request had no body, or it is sent
	stop   func() bool // the end of the request no longer closes the link
	whole  bool        // nothing more will come
	ended  bool
}

// uploadTime is how long the end of a body may take whose answer has come, if the
// connection is to be used again.
const uploadTime = 50 * time.Millisecond

// readHead reads the head of the answer, and passes what comes before it.
func (a *answer) readHead(w http.ResponseWriter, req *http.Request) error {
	k := a.link
	k.left = maxHead
	defer func() { k.left = math.MaxInt64 }()
	for {
		res, err := http.ReadResponse(k.in, req)
		if err != nil {
			return err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			a.res = res
			a.whole = res.Body == http.NoBody && res.StatusCode != http.StatusSwitchingProtocols
			return nil
		}
		if res.StatusCode < 100 {
			return errors.New("the answer has no valid status")
		}
		if res.StatusCode == http.StatusContinue && a.upload != nil {
			a.upload.proceed()
		}
		if !req.ProtoAtLeast(1, 1) {
			continue // its client would take it for the answer
		}
		h := w.Header()
		maps.Copy(h, res.Header)
		w.WriteHeader(res.StatusCode)
		clear(h)
	}
}

// pass sends the answer to the client, each part as soon as it comes.
func (a *answer) pass(w http.ResponseWriter, buffers *copyBuffers) error {
	res, h := a.res, w.Header()
	named := namedByConnection(res.Header)
	for name, values := range res.Header {
		if endToEnd(name) && !contains(named, name) {
			h[name] = values
		}
	}
	announced := len(res.Trailer)
	if announced > 0 {
		h["Trailer"] = []string{strings.Join(slices.Collect(maps.Keys(res.Trailer)), ", ")}
	}
	w.WriteHeader(res.StatusCode)
	if a.whole {
		return nil
	}
	if err := a.copyBody(w, buffers); err != nil {
		return err
	}
	a.whole = true
	passTrailer(w, res.Trailer, announced)
	return nil
}

// copyBody copies the body. What has come goes out when nothing more is there, but at
// the body's end the server sends it anyway.
func (a *answer) copyBody(w http.ResponseWriter, buffers *copyBuffers) error {
	rc := http.NewResponseController(w)
	if a.link.in.Buffered() == 0 {
		if err := rc.Flush(); err != nil {
			return err
		}
	}
	buf := buffers.Get()
	defer buffers.Put(buf)
	left := a.res.ContentLength
	for {
		n, err := a.res.Body.Read(buf)
		if n > 0 {
			left -= int64(n)
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n > 0 && left != 0:
			if err := rc.Flush(); err != nil {
				return err
			}
		}
	}
}

// passTrailer sends the trailer that came after the body.
func passTrailer(w http.ResponseWriter, trailer http.Header, announced int) {
	if len(trailer) == 0 {
		return
	}
	_ = http.NewResponseController(w).Flush() // in chunks, or there is no place for it
	prefix := http.TrailerPrefix
	if len(trailer) == announced {
		prefix = ""
	}
	for name, values := range trailer {
		w.Header()[prefix+name] = values
	}
}

// end gives the link back where nothing is under way on it any more, else closes it.
// Calling it again does nothing.
func (a *answer) end() {
	if a.ended {
		return
	}
	a.ended = true
	again := a.stop() && a.whole && !a.res.Close && a.uploaded()
	a.unread = a.body.close()
	if again {
		a.ro.put(a.link)
		return
	}
	_ = a.link.Close()
	if a.upload != nil {
		a.upload.proceed() // into the closed link
	}
}

// uploaded reports whether all of the request is sent.
func (a *answer) uploaded() bool {
	if a.upload == nil {
		return true
	}
	if !a.upload.given {
		return false // the instance never asked for it, and it may still be sent
	}
	timer := time.NewTimer(uploadTime)
	defer timer.Stop()
	select {
	case <-a.upload.done:
		return a.upload.whole
	case <-timer.C:
		return false
	}
}

// upgrade passes the instance's word to switch protocols, and then bytes both ways.
func (x *exchange) upgrade(w http.ResponseWriter, req *http.Request, a *answer) {
	want, got := upgradeOf(req.Header), upgradeOf(a.res.Header)
	if want == "" || !strings.EqualFold(want, got) {
		x.r.fail(w, req, refused(http.StatusBadGateway, 0, "the instance switched to a protocol that was not asked for"))
		return
	}
	if !a.uploaded() { // two would read from the client, and send to the instance
		x.r.fail(w, req, refused(http.StatusBadGateway, 0, "the instance switched protocols before it had all of the request"))
		return
	}
	s := x.lease.asStream()
	x.client.plain.Store(true)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		x.r.fail(w, req, err)
		return
	}
	defer conn.Close()
	a.res.Body = nil
	if a.res.Write(rw) != nil || rw.Flush() != nil {
		return
	}
	a.ended = true
	a.stop()
	x.r.splice(s, hijacked{x.client, rw.Reader}, buffered{a.link})
}

// hijacked is a client's connection that was taken from the HTTP server.
type hijacked struct {
	*clientConn
	in io.Reader
}

// Read reads what the server had read already, and then from the client.
func (h hijacked) Read(p []byte) (int, error) { return h.in.Read(p) }

// buffered is a link that carries plain bytes.
type buffered struct{ *link }

// Read reads what came behind the head, and then from the instance.
func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }
