package gateway

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/sock"
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// answer is an instance's answer as it comes over a link.
type answer struct {
	link   *roster.Link
	client *clientConn
	res    *http.Response
	body   keptBody // of the request
	unread bool     // nothing was read of it; once ended
	upload *upload  // nil: the request had no body, or it is sent
	whole  bool     // nothing more will come
	ended  bool
}

// uploadTime is how long the end of a body may take whose answer has come, if the
// connection is to be used again.
const uploadTime = 50 * time.Millisecond

// readHead reads the head of the answer, and passes what comes before it.
func (a *answer) readHead(x *exchange, req *http.Request) error {
	k := a.link
	k.Bound()
	defer k.Unbound()
	for {
		res, err := k.ReadResponse(req)
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
		if req.ProtoAtLeast(1, 1) { // an older client would take it for the answer
			if err := x.inform(req, res); err != nil {
				return err
			}
		}
	}
}

// inform passes what an instance says before its answer.
func (x *exchange) inform(req *http.Request, res *http.Response) error {
	c := x.client
	c.word.Lock()
	defer c.word.Unlock()
	if res.StatusCode == http.StatusContinue {
		if x.continued {
			return nil
		}
		x.continued = true
	}
	return c.write(append(x.appendAnswer(nil, req, res), "\r\n"...))
}

// pass sends the answer to the client, each part as soon as it comes.
func (a *answer) pass(x *exchange, req *http.Request) error {
	c, res := x.client, a.res
	x.begin()
	b := x.appendAnswer(c.out[:0], req, res)
	if res.Header["Date"] == nil {
		b = append(b, x.r.today()...)
	}
	if a.whole {
		if res.ContentLength >= 0 && (res.ContentLength > 0 || res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusNotModified) {
			b = x.appendLength(b, req, res.ContentLength)
		} else {
			b = x.appendConnection(b, req)
		}
		a.endEarly()
		return c.send(b)
	}
	return a.copyBody(x, req, b)
}

// endEarly ends the answer, of which all has come, before the client has all of it: the
// next request finds the link in the pool.
func (a *answer) endEarly() {
	a.whole = true
	if a.upload == nil {
		a.end()
	}
}

// partRoom is where the part of a body begins in its buffer: before it is room for a head
// and the length of a chunk, and behind it for the end of the last chunk.
const (
	partRoom = 4 << 10
	partEnd  = 16
)

// copyBody sends the head and the body. What has come goes out at once, the head with it
// where there is some of the body already.
func (a *answer) copyBody(x *exchange, req *http.Request, head []byte) error {
	c, res := x.client, a.res
	buf := x.r.buffers.Get()
	defer x.r.buffers.Put(buf)
	chunked := false
	if a.link.Waiting() == 0 {
		head, chunked = x.appendFraming(head, req, res, -1)
		if err := c.send(head); err != nil {
			return err
		}
		head = nil
	} else if cap(head) <= outSize {
		c.out = head[:0]
	}
	for begun := head == nil; ; begun = true {
		n, err := res.Body.Read(buf[partRoom : len(buf)-partEnd])
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !begun {
			whole := -1
			if err != nil && len(res.Trailer) == 0 {
				whole = n
			}
			head, chunked = x.appendFraming(head, req, res, whole)
		}
		out := frame(buf, head, n, chunked, err != nil, res.Trailer)
		if err != nil {
			a.endEarly() // from here on the link and what it read are another's
		}
		if len(out) > 0 {
			if err := c.write(out); err != nil {
				return err
			}
		}
		head = nil
		if err != nil {
			return nil
		}
		c.makeRoom() // the first of it is there, and the rest may take as long as it will
	}
}

// appendFraming appends how long the body is, and reports whether it goes in chunks. Whole
// is the length of a body that is there, else negative.
func (x *exchange) appendFraming(b []byte, req *http.Request, res *http.Response, whole int) ([]byte, bool) {
	switch {
	case res.ContentLength >= 0:
		return x.appendLength(b, req, res.ContentLength), false
	case whole >= 0:
		return x.appendLength(b, req, int64(whole)), false
	case req.ProtoMinor == 0: // it ends with the connection
		x.keep = false
		return x.appendConnection(b, req), false
	}
	if len(res.Trailer) > 0 {
		b = wire.AppendField(b, "Trailer", strings.Join(slices.Collect(maps.Keys(res.Trailer)), ", "))
	}
	b = append(b, "Transfer-Encoding: chunked\r\n"...)
	return x.appendConnection(b, req), true
}

// frame puts the head before a part of the body, which is n bytes at partRoom, and in
// chunks what belongs around it.
func frame(buf, head []byte, n int, chunked, last bool, trailer http.Header) []byte {
	from, to := partRoom, partRoom+n
	if chunked && n > 0 {
		var size [16]byte
		line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
		from -= copy(buf[from-len(line):], line)
		to += copy(buf[to:], "\r\n")
	}
	out := buf[from:to]
	if len(head) <= from {
		out = buf[from-copy(buf[from-len(head):], head) : to]
	} else {
		out = append(head, out...)
	}
	if chunked && last {
		out = append(out, "0\r\n"...)
		for name, values := range trailer {
			for _, v := range values {
				if name != "Content-Length" && wire.IsToken(name) && wire.EndToEnd(name) {
					out = wire.AppendValue(append(append(out, name...), ": "...), v)
				}
			}
		}
		out = append(out, "\r\n"...)
	}
	return out
}

// end gives the link back where nothing is under way on it any more, else closes it.
// Calling it again does nothing.
func (a *answer) end() {
	if a.ended {
		return
	}
	a.ended = true
	again := a.client.letGo() && a.whole && !a.res.Close && a.uploaded()
	a.unread = a.body.close()
	if again {
		a.link.Put()
		return
	}
	_ = a.link.Close()
	a.endUpload()
}

// endUpload ends the sending of the body, whose link is closed, and waits for its end.
func (a *answer) endUpload() {
	if a.upload == nil {
		return
	}
	a.upload.proceed()
	select {
	case <-a.upload.done:
		return
	default:
	}
	_ = a.client.SetReadDeadline(sock.LongAgo)
	<-a.upload.done
	a.client.unlimited()
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
func (x *exchange) upgrade(req *http.Request, a *answer) {
	want, got := wire.UpgradeOf(req.Header), wire.UpgradeOf(a.res.Header)
	if want == "" || !strings.EqualFold(want, got) {
		a.end() // the body may be on its way, and two would read from the client
		x.fail(req, wire.Refused(http.StatusBadGateway, 0, "the instance switched to a protocol that was not asked for"))
		return
	}
	if !a.uploaded() { // two would read from the client, and send to the instance
		a.end()
		x.fail(req, wire.Refused(http.StatusBadGateway, 0, "the instance switched protocols before it had all of the request"))
		return
	}
	c := x.client
	x.taken = true
	c.plain.Store(true)
	a.ended = true
	if !c.letGo() {
		_ = a.link.Close()
		return
	}
	c.endRequest() // from here on the stream looks for the client's end
	c.makeRoom()
	c.unlimited()
	c.patience(0)
	c.probe()
	s := x.lease.AsStream()
	var head bytes.Buffer
	a.res.Body = nil
	if a.res.Write(&head) != nil || c.write(head.Bytes()) != nil {
		_ = a.link.Close()
		return
	}
	x.r.splice(s, hijacked{c}, a.link.Plain())
}

// hijacked is a client's connection that carries plain bytes.
type hijacked struct{ *clientConn }

// Read reads what came behind the head, and then from the client.
func (h hijacked) Read(p []byte) (int, error) { return h.in.Read(p) }
