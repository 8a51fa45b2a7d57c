package socket

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"mvm"
)

// Wanted reports whether the request asks for a WebSocket.
func Wanted(r *http.Request) bool { return hasToken(r.Header, "Upgrade", "websocket") }

// Check refuses a request that can't become a WebSocket of the protocol.
func Check(r *http.Request, protocol string) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")))
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return mvm.Errorf(mvm.KindInvalid, "this needs an upgraded connection, which %s does not allow", r.Proto).WithFix("connect with HTTP/1.1, as WebSocket clients do")
	case !Wanted(r) || !hasToken(r.Header, "Connection", "Upgrade"):
		return mvm.Errorf(mvm.KindInvalid, "this needs an upgrade to websocket").WithFix("use a WebSocket client with the subprotocol %s", protocol)
	case r.Header.Get("Sec-WebSocket-Version") != "13" || len(r.Header.Values("Sec-WebSocket-Key")) != 1 || err != nil || len(key) != 16:
		return mvm.Errorf(mvm.KindInvalid, "the WebSocket handshake is malformed: version 13 and one key of 16 bytes are needed")
	case !hasToken(r.Header, "Sec-WebSocket-Protocol", protocol):
		return mvm.Errorf(mvm.KindInvalid, "this needs the WebSocket subprotocol %s", protocol)
	}
	return nil
}

// CheckOrigin refuses what a page of another origin has a browser send: the browser would show
// the user's certificate. Allowed are origins such as "https://console.example".
func CheckOrigin(r *http.Request, allowed []string) error {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return nil // no browser, or a page of this server that only reads
	}
	u, err := url.Parse(origins[0])
	if len(origins) == 1 && (err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) || slices.Contains(allowed, strings.ToLower(origins[0]))) {
		return nil
	}
	return mvm.Errorf(mvm.KindPolicy, "requests of pages from %.100q are refused", origins[0]).WithFix("add the origin to api_origins of this host's agent.toml, if you trust its pages")
}

// hasToken reports whether the lists of the header have the token.
func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// Conn is a server's WebSocket. It must be ended.
type Conn struct {
	ws  *websocket.Conn
	raw net.Conn
}

// Accept makes the request a WebSocket of the protocol, of which origin and form are checked.
func Accept(w http.ResponseWriter, r *http.Request, protocol string) (*Conn, error) {
	c := &Conn{}
	ws, err := websocket.Accept(&taker{w, c}, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}, InsecureSkipVerify: true})
	c.ws = ws
	return c, err
}

// taker notes the connection that is taken over.
type taker struct {
	http.ResponseWriter
	conn *Conn
}

// Hijack implements http.Hijacker.
func (t *taker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn.raw = raw
	if over, ok := raw.(interface{ NetConn() net.Conn }); ok {
		t.conn.raw = over.NetConn() // to cut off says nothing more, which TLS would wait to have said
	}
	return raw, rw, err
}

// End closes the WebSocket in order, which takes as long at most, and then the connection. What
// the library waits for by itself has no end where a client sends a part of a frame.
func (c *Conn) End(within time.Duration) {
	defer time.AfterFunc(within, c.hangUp).Stop()
	_ = c.ws.Close(websocket.StatusNormalClosure, "")
	c.cut()
}

// cut closes the connection at once.
func (c *Conn) cut() {
	c.hangUp()
	_ = c.ws.CloseNow()
}

// hangUp has everything under way on the connection end, without another word.
func (c *Conn) hangUp() {
	if raw, ok := c.raw.(interface{ Cut() }); ok {
		raw.Cut()
		return
	}
	_ = c.raw.Close()
}

// First returns the first message, a text of at most limit bytes that comes within the time.
// After an error of kind invalid the client can still be told.
func (c *Conn) First(ctx context.Context, limit int64, within time.Duration) ([]byte, error) {
	defer context.AfterFunc(ctx, c.hangUp)()
	defer time.AfterFunc(within, c.hangUp).Stop()
	c.ws.SetReadLimit(2 * limit)
	kind, r, err := c.ws.Reader(context.Background()) // ends with the connection
	if err != nil {
		return nil, mvm.Errorf(mvm.KindCanceled, "read first message: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindCanceled, "read first message: %w", err)
	case int64(len(text)) > limit:
		return nil, mvm.Errorf(mvm.KindInvalid, "the first message has more than %d bytes", limit)
	case kind != websocket.MessageText:
		return nil, mvm.Errorf(mvm.KindInvalid, "the first message is not text")
	}
	return text, nil
}
