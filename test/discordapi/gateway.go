package discordapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Operations, codes and intents of the gateway.
const (
	opDispatch  = 0
	opHeartbeat = 1
	opIdentify  = 2
	opResume    = 6
	opReconnect = 7
	opInvalid   = 9
	opHello     = 10
	opAck       = 11

	closeUnknown  = 4000
	closeOpcode   = 4001
	closeDecode   = 4002
	closeNoAuth   = 4003
	closeToken    = 4004
	closeAgain    = 4005
	closeSequence = 4007
	closeLimit    = 4008
	closeIntents  = 4013
	closeDenied   = 4014

	privileged = 1<<1 | 1<<8 | 1<<15
	allIntents = 1<<26 - 1
	onServers  = 1 << 9
	direct     = 1 << 12
)

// session is what a client can resume.
type session struct {
	id      string
	intents int
	events  []event // all of them
}

type event struct {
	kind string
	data any
}

// conn is a connection of a client.
type conn struct {
	ws     *websocket.Conn
	cancel context.CancelFunc
	mu     sync.Mutex
	out    []any
	news   chan struct{}
}

func (c *conn) push(v any) {
	c.mu.Lock()
	c.out = append(c.out, v)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// pump sends what is pushed.
func (c *conn) pump(ctx context.Context) {
	for {
		c.mu.Lock()
		out := c.out
		c.out = nil
		c.mu.Unlock()
		for _, v := range out {
			if c.ws.Write(ctx, websocket.MessageText, encode(v)) != nil {
				return
			}
		}
		select {
		case <-c.news:
		case <-ctx.Done():
			return
		}
	}
}

// event tells the session, and the connection that it has. s.mu is held.
func (s *Server) event(kind string, data any) {
	if s.session == nil {
		return
	}
	want := onServers
	if kind == "MESSAGE_CREATE" {
		if d := data.(map[string]any); d["guild_id"] == nil {
			want = direct
		}
		if s.session.intents&want == 0 {
			return
		}
	}
	s.session.events = append(s.session.events, event{kind, data})
	if s.conn != nil {
		s.conn.push(dispatch(len(s.session.events), event{kind, data}))
	}
}

func dispatch(seq int, e event) map[string]any {
	return map[string]any{"op": opDispatch, "s": seq, "t": e.kind, "d": e.data}
}

func (s *Server) gateway(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("v") != "10" || r.URL.Query().Get("encoding") != "json" {
		http.Error(w, "v=10&encoding=json", 400)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	s.group.Add(1)
	defer s.group.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &conn{ws: ws, cancel: cancel, news: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() { defer close(done); c.pump(ctx) }()
	c.push(map[string]any{"op": opHello, "d": map[string]any{"heartbeat_interval": s.opt.Heartbeat.Milliseconds()}})
	code := s.serve(ctx, c)
	s.mu.Lock()
	if s.conn == c {
		s.conn = nil
	}
	s.mu.Unlock()
	if code != 0 {
		_ = ws.Close(websocket.StatusCode(code), "") // the client may be gone
	}
	cancel()
	_ = ws.CloseNow()
	<-done
}

// serve reads from a client until it goes, and returns the code with which to close.
func (s *Server) serve(ctx context.Context, c *conn) int {
	ready := false
	times := []time.Time{}
	for {
		limit, cancel := context.WithTimeout(ctx, s.opt.Heartbeat*3/2)
		_, text, err := c.ws.Read(limit)
		late := limit.Err() != nil && ctx.Err() == nil
		cancel()
		if late {
			s.mu.Lock()
			s.counts.Missed++
			s.mu.Unlock()
			return closeUnknown
		}
		if err != nil {
			return 0
		}
		if times = append(times, time.Now()); len(times) > 120 && time.Since(times[len(times)-121]) < time.Minute {
			s.mu.Lock()
			s.counts.Missed++
			s.mu.Unlock()
			return closeLimit
		}
		var f struct {
			Op *int            `json:"op"`
			D  json.RawMessage `json:"d"`
		}
		if json.Unmarshal(text, &f) != nil || f.Op == nil {
			return closeDecode
		}
		switch *f.Op {
		case opHeartbeat:
			s.mu.Lock()
			mute := s.mute
			s.mu.Unlock()
			if !mute {
				c.push(map[string]any{"op": opAck})
			}
			continue
		case opIdentify, opResume:
			if ready {
				return closeAgain
			}
			code := 0
			if *f.Op == opIdentify {
				code, ready = s.identify(c, f.D)
			} else {
				code, ready = s.resume(c, f.D)
			}
			if code != 0 {
				return code
			}
		default:
			if !ready {
				return closeNoAuth
			}
			return closeOpcode
		}
	}
}

func (s *Server) identify(c *conn, raw json.RawMessage) (code int, ok bool) {
	var d struct {
		Token      string            `json:"token"`
		Intents    *int              `json:"intents"`
		Properties map[string]string `json:"properties"`
	}
	if json.Unmarshal(raw, &d) != nil || d.Intents == nil || d.Properties["os"] == "" {
		return closeDecode, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Identified++
	switch {
	case s.denied != 0:
		return s.denied, false
	case d.Token != s.opt.Token:
		return closeToken, false
	case *d.Intents&^allIntents != 0:
		return closeIntents, false
	case *d.Intents&privileged != 0:
		return closeDenied, false
	}
	s.next++
	s.session, s.conn = &session{id: "s" + strconv.FormatUint(s.next, 10), intents: *d.Intents}, c
	s.event("READY", map[string]any{"v": 10, "session_id": s.session.id, "resume_gateway_url": "", "user": map[string]any{"id": BotID, "username": "helper", "bot": true}, "guilds": []any{}})
	return 0, true
}

func (s *Server) resume(c *conn, raw json.RawMessage) (code int, ok bool) {
	var d struct {
		Token   string `json:"token"`
		Session string `json:"session_id"`
		Seq     int    `json:"seq"`
	}
	if json.Unmarshal(raw, &d) != nil {
		return closeDecode, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case d.Token != s.opt.Token:
		return closeToken, false
	case s.session == nil || s.session.id != d.Session:
		c.push(map[string]any{"op": opInvalid, "d": false})
		return 0, false
	case d.Seq < 0 || d.Seq > len(s.session.events):
		return closeSequence, false
	}
	s.counts.Resumed++
	for n, e := range s.session.events[d.Seq:] {
		if e.kind != "READY" { // its client has it
			c.push(dispatch(d.Seq+n+1, e))
		}
	}
	s.conn = c
	s.event("RESUMED", map[string]any{})
	return 0, true
}
