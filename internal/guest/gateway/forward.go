package gateway

import (
	"bytes"
	"errors"
	"io"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"mvm"
)

// continueTime is how long the body of a request that expects it waits for the word of
// the instance to go on.
const continueTime = time.Second

// inlineBody is sent with the head in one piece, where it is there.
const inlineBody = 16 << 10

// upload is a request's body on its way to the instance.
type upload struct {
	done  chan struct{}
	whole bool          // all was sent; once done is closed
	word  chan struct{} // closed at the instance's word to go on, for which it waits
	given bool          // it is closed; only the answer's goroutine looks
}

// ask sends the request over the answer's link: the head at once, and the body while
// the answer may already come.
func (x *exchange) ask(a *answer, req *http.Request) error {
	k := a.link
	length, src := req.ContentLength, io.Reader(&a.body)
	switch {
	case x.has:
		length, src = int64(len(x.buffered)), bytes.NewReader(x.buffered)
	case req.Body == nil || req.Body == http.NoBody:
		length = 0
	}
	head, err := wire.AppendHead(k.Room(), req, x.client.source.Addr(), table.Trusted(x.route.TrustedProxies, x.client.peer()), k.Addr(), length)
	if err != nil {
		return err
	}
	k.Keep(head)
	if x.has && length <= inlineBody {
		head, length = append(head, x.buffered...), 0
	}
	if _, err := k.Write(head); err != nil || length == 0 {
		return err
	}
	u := &upload{done: make(chan struct{}), word: make(chan struct{})}
	if !wire.HasToken(req.Header["Expect"], "100-continue") {
		u.proceed()
	}
	run := func() {
		defer close(u.done)
		defer x.r.late.add(x.client) // from here on the client's end can be seen
		u.run(k, src, length, req)
	}
	if !x.r.group.Go(run) {
		return mvm.Errorf(mvm.KindUnavailable, "send the body: the gateway is closing")
	}
	a.upload = u // which ends
	return nil
}

// proceed lets the body go.
func (u *upload) proceed() {
	if !u.given {
		u.given = true
		close(u.word)
	}
}

// run sends the body, of unknown length where that is negative. When it fails for
// another reason than that the instance takes no more, it ends the exchange.
func (u *upload) run(k *roster.Link, src io.Reader, length int64, req *http.Request) {
	timer := time.NewTimer(continueTime)
	defer timer.Stop()
	select {
	case <-u.word:
	case <-timer.C:
	}
	err := sendBody(k, src, length, req)
	u.whole = err == nil
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		_ = k.Close()
	}
}

// sendBody copies the body as it comes.
func sendBody(k *roster.Link, src io.Reader, length int64, req *http.Request) error {
	const room = 16 // for the length of a chunk
	buf := make([]byte, copyBuffer)
	for length != 0 {
		part := buf[room : len(buf)-2]
		if length > 0 {
			part = part[:min(int64(len(part)), length)]
		}
		n, err := src.Read(part)
		if n > 0 {
			out := part[:n]
			if length > 0 {
				length -= int64(n)
			} else {
				size := strconv.FormatInt(int64(n), 16) + "\r\n"
				from := room - copy(buf[room-len(size):], size)
				out = append(buf[from:room+n], "\r\n"...)
			}
			if _, err := k.Write(out); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && length > 0:
			return io.ErrUnexpectedEOF
		case err == io.EOF && length < 0:
			_, err := k.Write(wire.AppendTrailer(buf[:0], req))
			return err
		case err != nil && err != io.EOF:
			return err
		}
	}
	return nil
}
