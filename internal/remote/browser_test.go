package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/remote"
)

const (
	execOf   = "/v1/instances/i-00000001/exec"
	eventsOf = "/v1/events?follow=true"
)

// open makes a WebSocket as a browser does for a page of the origin.
func (n *node) open(web *http.Client, path, origin string, protocols ...string) (*websocket.Conn, error) {
	n.t.Helper()
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	c, resp, err := websocket.Dial(ctxOf(n.t), "wss://"+n.addr+path, &websocket.DialOptions{HTTPClient: web, HTTPHeader: header, Subprotocols: protocols})
	if err != nil && resp != nil {
		b, _ := io.ReadAll(resp.Body)
		err = errors.New(resp.Status + " " + string(b))
	}
	if c != nil {
		n.t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, err
}

func say(t *testing.T, c *websocket.Conn, kind websocket.MessageType, data string) {
	t.Helper()
	if err := c.Write(ctxOf(t), kind, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// hear reads until a text, and returns what came as stdout before it.
func hear(t *testing.T, c *websocket.Conn) (out, text string) {
	t.Helper()
	c.SetReadLimit(1 << 20)
	for {
		kind, b, err := c.Read(ctxOf(t))
		switch {
		case err != nil:
			t.Fatalf("no last message: %v", err)
		case kind == websocket.MessageText:
			return out, string(b)
		case b[0] == 3:
			out += string(b[1:])
		}
	}
}

// TestBrowsersRunCommands: with a WebSocket alone, from a page of the node or of an origin that
// is allowed, and no other.
func TestBrowsersRunCommands(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{Origins: []string{"https://console.example"}})
	web := n.web(n.bundle("laptop", "", day), false)
	for _, origin := range []string{"", "https://" + n.addr, "https://console.example"} {
		c, err := n.open(web, execOf, origin, "v1.exec.mvm")
		if err != nil {
			t.Errorf("origin %q: %v", origin, err)
			continue
		}
		say(t, c, websocket.MessageText, `{"argv":["cat"]}`)
		say(t, c, websocket.MessageBinary, "\x00hello ")
		say(t, c, websocket.MessageBinary, "\x00browser")
		say(t, c, websocket.MessageBinary, "\x01")
		if out, end := hear(t, c); out != "hello browser" || end != `{"code":7}` {
			t.Errorf("origin %q: got %q and %q", origin, out, end)
		}
		if _, _, err := c.Read(ctxOf(t)); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("the WebSocket ended with %v", err)
		}
	}
	before := n.svc.asked()
	for _, origin := range []string{"https://evil.example", "null", "https://console.example.evil.example", "http://console.example", "file://"} {
		for path, protocol := range map[string]string{execOf: "v1.exec.mvm", eventsOf: "v1.lines.mvm"} {
			if _, err := n.open(web, path, origin, protocol); err == nil || !strings.HasPrefix(err.Error(), "403 ") || !strings.Contains(err.Error(), `"kind":"policy"`) {
				t.Errorf("%s from a page of %q: %v, want 403", path, origin, err)
			}
		}
		req, err := http.NewRequest("POST", "https://"+n.addr+"/v1/tenants", strings.NewReader(`{"id":"evil"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		resp, err := web.Do(req)
		if got := body(t, resp, err); !strings.HasPrefix(got, "HTTP/1.1 403") {
			t.Errorf("a form of a page of %q: %s", origin, got)
		}
	}
	if got := n.svc.asked(); got != before {
		t.Errorf("the service was asked %s", strings.TrimPrefix(got, before))
	}
}

// TestBrowsersFollowLines: what streams lines sends them as messages too.
func TestBrowsersFollowLines(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	web := n.web(n.bundle("laptop", "", day), false)
	c, err := n.open(web, eventsOf, "https://"+n.addr, "v1.lines.mvm")
	if err != nil {
		t.Fatal(err)
	}
	n.svc.each <- mvm.Event{Seq: 5}
	var line struct{ Item struct{ Seq int } }
	if _, text := hear(t, c); json.Unmarshal([]byte(text), &line) != nil || line.Item.Seq != 5 {
		t.Errorf("got %s", text)
	}
	_ = c.Close(websocket.StatusNormalClosure, "")
	select {
	case <-n.svc.ended:
	case <-time.After(20 * time.Second):
		t.Error("the stream goes on without its client")
	}
	if _, err := n.open(web, eventsOf, "", "v1.exec.mvm"); err == nil || !strings.HasPrefix(err.Error(), "400 ") {
		t.Errorf("another protocol: %v, want 400", err)
	}
}

// ended waits until a request has ended with the result.
type ended struct {
	mu  sync.Mutex
	all []string
}

func (e *ended) count(_, result string, _ time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, result)
}

func (e *ended) want(t *testing.T, result string) {
	t.Helper()
	eventually(t, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !slices.Contains(e.all, result) {
			return errors.New("no request ended with " + result + " but " + strings.Join(e.all, ", "))
		}
		e.all = nil
		return nil
	})
}

// TestHostileWebSockets: whatever a client does, its request ends, and it is told why where it
// listens.
func TestHostileWebSockets(t *testing.T) {
	var end ended
	n := start(t, remote.Options{}, api.ServerConfig{Count: end.count})
	web := n.web(n.bundle("laptop", "", day), false)
	hurried := start(t, remote.Options{}, api.ServerConfig{Count: end.count, BodyTimeout: 300 * time.Millisecond})
	connect := func(t *testing.T, first string) *websocket.Conn {
		c, err := n.open(web, execOf, "", "v1.exec.mvm")
		if err != nil {
			t.Fatal(err)
		}
		if first != "" {
			_ = c.Write(ctxOf(t), websocket.MessageText, []byte(first))
		}
		return c
	}
	cat := `{"argv":["cat"]}`
	for name, tc := range map[string]struct {
		first, then, want, result string
		kind                      websocket.MessageType
	}{
		"a huge first message":   {`{"argv":["` + strings.Repeat("x", api.MaxBody) + `"]}`, "", "more than 1048576 bytes", "invalid", 0},
		"not what is expected":   {`{"argv":["cat"],"evil":1}`, "", "unknown field", "invalid", 0},
		"no command":             {`{"argv":[]}`, "", "no command given", "invalid", 0},
		"a huge message":         {cat, "\x00" + strings.Repeat("x", 1<<20), "more than 32768 bytes", "invalid", websocket.MessageBinary},
		"an unknown message":     {cat, "\x09x", "unknown type 9", "invalid", websocket.MessageBinary},
		"an empty message":       {cat, "", "message is empty", "invalid", websocket.MessageBinary},
		"text after the first":   {cat, "hello", "message is text", "invalid", websocket.MessageText},
		"a size of another form": {cat, "\x02xx", "has 2 bytes, not 4", "invalid", websocket.MessageBinary},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, tc.first)
			if tc.kind != 0 {
				_ = c.Write(ctxOf(t), tc.kind, []byte(tc.then))
			}
			if _, last := hear(t, c); !strings.Contains(last, tc.want) || !strings.Contains(last, `"kind":"invalid"`) {
				t.Errorf("the client was told %s, want %q", last, tc.want)
			}
			_ = c.CloseNow()
			end.want(t, tc.result)
		})
	}
	t.Run("says nothing", func(t *testing.T) {
		if _, err := hurried.open(hurried.web(hurried.bundle("laptop", "", day), false), execOf, "", "v1.exec.mvm"); err != nil {
			t.Fatal(err)
		}
		end.want(t, "canceled")
	})
	t.Run("hangs up", func(t *testing.T) {
		_ = connect(t, cat).CloseNow()
		end.want(t, "canceled")
	})
	t.Run("never closes", func(t *testing.T) {
		c := connect(t, cat)
		say(t, c, websocket.MessageBinary, "\x01")
		hear(t, c) // and reads no more, so that the close is not answered
		end.want(t, "ok")
	})
	t.Run("reads nothing", func(t *testing.T) {
		c := connect(t, cat)
		ctx, cancel := context.WithCancel(ctxOf(t))
		defer cancel()
		go func() {
			for c.Write(ctx, websocket.MessageBinary, []byte("\x00"+strings.Repeat("x", 32<<10))) == nil { // more than its window, too
			}
		}()
		end.want(t, "invalid")
	})
	if asked := n.svc.asked(); !strings.Contains(asked, "Exec cat") {
		t.Errorf("the service was asked %s", asked)
	}
}
