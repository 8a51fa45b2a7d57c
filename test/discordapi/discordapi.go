// Package discordapi is Discord for tests: its REST API and its gateway, for one bot. It
// keeps Discord's rules: a client that misses heartbeats or breaks the protocol is cut off
// with Discord's codes, events are replayed to a session that is resumed, requests beyond
// the limit get 429, a nonce is used once, and the text of messages that do not concern the
// bot is not shown to it.
package discordapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/coder/websocket"
)

// Message is a message in a channel.
type Message struct {
	ID      string
	Channel string
	Author  string
	Text    string
	ReplyTo string
	Nonce   string
	Pings   bool // it may notify somebody
	At      time.Time

	mentions []string
	bot      bool
}

// Options of a Server.
type Options struct {
	Token     string
	Heartbeat time.Duration // 0: 10 s
	// Limit and Window are how many messages may be sent to a channel in what time; 0: 5 in 5 s.
	Limit  int
	Window time.Duration
}

// BotID is the bot's user.
const BotID = "900000000000000001"

// Fault is what a Hook has done to a REST request.
type Fault int

// The faults.
const (
	None       Fault = iota
	Refuse           // 503, nothing is done
	Lose             // the request is done, and its answer is lost
	TooMany          // 429, nothing is done
	Disconnect       // the request is done, and the gateway connection is cut
)

// Server is Discord. Its methods may be called concurrently.
type Server struct {
	opt Options
	// Hook, where it is set before the first request, may have a request fail.
	Hook func(method, path string) Fault

	mu       sync.Mutex
	next     uint64
	servers  map[string]string // channel -> server; "" is a direct chat
	messages map[string][]*Message
	nonces   map[string]*Message
	buckets  map[string]*bucket
	session  *session
	conn     *conn
	denied   int // close code for those who identify
	down     bool
	mute     bool
	counts   Counts
	typing   map[string]int
	group    sync.WaitGroup
}

// Counts are what clients did.
type Counts struct {
	Identified, Resumed, Limited int
	Hammered                     int // requests made before the time that a 429 gave
	Requests                     int // of REST
	Missed                       int // connections cut for heartbeats that were missed, or for too many frames
}

type bucket struct {
	began   time.Time
	n       int
	blocked time.Time // until then a request is hammering
}

// New makes a Discord without channels.
func New(opt Options) *Server {
	if opt.Heartbeat == 0 {
		opt.Heartbeat = 10 * time.Second
	}
	if opt.Limit == 0 {
		opt.Limit, opt.Window = 5, 5*time.Second
	}
	return &Server{opt: opt, next: 1_000_000_000_000_000_000, servers: map[string]string{}, messages: map[string][]*Message{},
		nonces: map[string]*Message{}, buckets: map[string]*bucket{}, typing: map[string]int{}}
}

// Close cuts the connections and waits for them.
func (s *Server) Close() {
	s.Drop()
	s.group.Wait()
}

// AddChannel makes a channel of a server, or a direct chat where the server is "".
func (s *Server) AddChannel(id, server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers[id] = server
}

// RemoveChannel removes a channel with its messages.
func (s *Server) RemoveChannel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.servers, id)
	delete(s.messages, id)
}

// Mute has heartbeats not be answered, or ends that.
func (s *Server) Mute(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

// Write has a person write, and mention whom they want.
func (s *Server) Write(channel, author, text string, mentions ...string) string {
	return s.write(&Message{Channel: channel, Author: author, Text: text, mentions: mentions})
}

// WriteAsBot has another bot write.
func (s *Server) WriteAsBot(channel, author, text string) string {
	return s.write(&Message{Channel: channel, Author: author, Text: text, bot: true})
}

func (s *Server) write(m *Message) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(m)
	return m.ID
}

// add keeps the message and tells the session. s.mu is held.
func (s *Server) add(m *Message) {
	s.next++
	m.ID, m.At = strconv.FormatUint(s.next, 10), time.Now()
	s.messages[m.Channel] = append(s.messages[m.Channel], m)
	d := s.form(m)
	if server := s.servers[m.Channel]; server != "" {
		d["guild_id"] = server
	}
	s.event("MESSAGE_CREATE", d)
}

// form is the message's JSON. s.mu is held.
func (s *Server) form(m *Message) map[string]any {
	users := []any{}
	concerns := s.servers[m.Channel] == "" || m.Author == BotID
	for _, id := range m.mentions {
		users = append(users, map[string]any{"id": id, "username": "u" + id, "bot": id == BotID})
		concerns = concerns || id == BotID
	}
	d := map[string]any{"id": m.ID, "channel_id": m.Channel, "type": 0, "mentions": users, "content": "", "timestamp": m.At.UTC().Format(time.RFC3339Nano),
		"author": map[string]any{"id": m.Author, "username": "u" + m.Author, "bot": m.bot || m.Author == BotID}}
	if concerns {
		d["content"] = m.Text
	}
	if m.ReplyTo != "" {
		d["type"], d["message_reference"] = 19, map[string]any{"message_id": m.ReplyTo, "channel_id": m.Channel}
	}
	return d
}

// Sent returns what the bot has sent, by channel.
func (s *Server) Sent(channel string) (out []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages[channel] {
		if m.Author == BotID {
			out = append(out, *m)
		}
	}
	return out
}

// Typing counts the signs of typing in a channel.
func (s *Server) Typing(channel string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typing[channel]
}

// Counts returns what clients did.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Connected reports whether a session has a connection.
func (s *Server) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil && s.session != nil
}

// SetToken revokes the token and makes another.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	s.opt.Token = token
	s.mu.Unlock()
	s.CloseWith(closeToken)
}

// Deny has who identifies be cut off with the code; 0 ends that.
func (s *Server) Deny(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = code
}

// SetDown has everything fail, or ends that.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	if down {
		s.Drop()
	}
}

// ForgetNonces has Discord forget the nonces, as it does after some minutes.
func (s *Server) ForgetNonces() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.nonces)
}

// ForgetSession has the session not be resumed.
func (s *Server) ForgetSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = nil
}

// Drop cuts the gateway connection without a word.
func (s *Server) Drop() {
	s.mu.Lock()
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	if c != nil {
		c.cancel()
	}
}

// CloseWith closes the gateway connection with a code.
func (s *Server) CloseWith(code int) {
	s.mu.Lock()
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	if c != nil {
		_ = c.ws.Close(websocket.StatusCode(code), "") // the client may be gone
		c.cancel()
	}
}

// Reconnect asks the client to connect again, and Invalidate tells it that the session is
// over.
func (s *Server) Reconnect() { s.tell(map[string]any{"op": opReconnect, "d": nil}) }

// Invalidate does as Reconnect says.
func (s *Server) Invalidate() {
	s.ForgetSession()
	s.tell(map[string]any{"op": opInvalid, "d": false})
}

func (s *Server) tell(v any) {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.push(v)
	}
}

// ServeHTTP serves the API below /api/v10, and the gateway at /gateway.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	switch {
	case down:
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/gateway":
		s.gateway(w, r)
	default:
		s.rest(w, r)
	}
}

func units(text string) int { return len(utf16.Encode([]rune(text))) }

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a map that is made here
	}
	return b
}
