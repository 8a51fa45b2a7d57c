package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
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
	head, err := appendHead(k.out[:0], req, x.client, trusted(x.route.TrustedProxies, x.client), k.lane.addr, length)
	if err != nil {
		return err
	}
	k.out = head[:0]
	if x.has && length <= inlineBody {
		head, length = append(head, x.buffered...), 0
	}
	if _, err := k.Write(head); err != nil || length == 0 {
		return err
	}
	u := &upload{done: make(chan struct{}), word: make(chan struct{})}
	if !hasToken(req.Header["Expect"], "100-continue") {
		u.proceed()
	}
	run := func() {
		defer close(u.done)
		defer x.r.late.add(x.client) // from here on the client's end can be seen
		u.run(k, src, length, req)
	}
	if !x.r.group.goDo(run) {
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
func (u *upload) run(k *link, src io.Reader, length int64, req *http.Request) {
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
func sendBody(k *link, src io.Reader, length int64, req *http.Request) error {
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
			_, err := k.Write(appendTrailer(buf[:0], req))
			return err
		case err != nil && err != io.EOF:
			return err
		}
	}
	return nil
}

// trailing reports whether the field goes to the instance behind the body. What a header
// says, or the gateway alone, no trailer says otherwise.
func trailing(req *http.Request, name string) bool {
	return forwarded(name) && !alike(name, userHeader) && !repeats(req.Header, name)
}

// appendTrailer appends the end of a body in chunks.
func appendTrailer(b []byte, req *http.Request) []byte {
	b = append(b, "0\r\n"...)
	for name, values := range req.Trailer {
		if !trailing(req, name) {
			continue
		}
		for _, v := range values {
			if plain(v) {
				b = appendField(b, name, v)
			}
		}
	}
	return append(b, "\r\n"...)
}

// appendHead appends the head of the request to the instance: everything as it came,
// but what is about the client's connection, and that who sent it is told by the
// gateway alone.
func appendHead(b []byte, req *http.Request, client *clientConn, trust bool, addr string, length int64) ([]byte, error) {
	host := req.Host
	if host == "" {
		host = addr
	}
	uri := req.URL.RequestURI()
	upgrade := upgradeOf(req.Header)
	if !plain(host) || !plain(uri) || !plain(upgrade) {
		return b, refused(http.StatusBadRequest, 0, "the request has characters that may not be there")
	}
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, uri...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", host)
	named := namedByConnection(req.Header)
	for name, values := range req.Header {
		if !forwarded(name) || contains(named, name) {
			continue
		}
		for _, v := range values {
			if !plain(v) {
				return b, refused(http.StatusBadRequest, 0, "the header %s has characters that may not be there", printable(name, 100))
			}
			b = appendField(b, name, v)
		}
	}
	b, err := appendForwarded(b, req, client.source.Addr(), trust)
	if err != nil {
		return b, err
	}
	if upgrade != "" {
		b = appendField(b, "Connection", "Upgrade")
		b = appendField(b, "Upgrade", upgrade)
	}
	if hasToken(req.Header["Te"], "trailers") {
		b = appendField(b, "Te", "trailers")
	}
	return append(appendFraming(b, req, length), "\r\n"...), nil
}

// appendFraming appends how long the body is.
func appendFraming(b []byte, req *http.Request, length int64) []byte {
	switch {
	case length < 0:
		b = appendField(b, "Transfer-Encoding", "chunked")
		for name := range req.Trailer {
			if trailing(req, name) {
				b = appendField(b, "Trailer", name)
			}
		}
	case length > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// plain reports whether the text can't end its line.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == '\r' || c == '\n' || c == 0 {
			return false
		}
	}
	return true
}

// forwarded reports whether a request's header goes to the instance as it came. A name
// that some servers take for another's is that one here.
func forwarded(name string) bool {
	if strings.Contains(name, "_") {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Host", "Content-Length", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip":
		return false
	}
	return endToEnd(name)
}

// endToEnd reports whether the header is not about one connection only.
func endToEnd(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false
	}
	return true
}

// namedByConnection lists the headers that are about one connection by their own word.
func namedByConnection(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			name = textproto.TrimString(name)
			if name != "" && !strings.EqualFold(name, "keep-alive") && !strings.EqualFold(name, "close") && !strings.EqualFold(name, "upgrade") {
				names = append(names, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	return names
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// upgradeOf returns the protocol that the head's sender wants to go on with, "" for none.
func upgradeOf(h http.Header) string {
	if !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// hasToken reports whether one of the lists of tokens has the token.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}
