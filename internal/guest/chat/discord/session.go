package discord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/posted"
)

// session is what resumes a session. Its seq is that of the last event whose messages are on
// the disk.
type session struct {
	id, url string
	seq     int64
}

// Operations of the gateway's protocol.
const (
	opDispatch  = 0
	opHeartbeat = 1
	opIdentify  = 2
	opResume    = 6
	opReconnect = 7
	opInvalid   = 9
	opHello     = 10
	opAck       = 11
)

// intents are messages on servers and in direct chats. What people write to the bot comes
// with its text without the privileged intent for message content.
const intents = 1<<9 | 1<<12

// Codes by which Discord closes a connection.
const (
	closeToken    = 4004
	closeSequence = 4007
	closeTimeout  = 4009
	closeShard    = 4010
	closeSharding = 4011
	closeVersion  = 4012
	closeIntents  = 4013
	closeDenied   = 4014
)

// Bounds of a connection.
const (
	maxFrame     = 4 << 20
	helloTimeout = 20 * time.Second
	sendTimeout  = 10 * time.Second
	minBeat      = 50 * time.Millisecond
	maxBeat      = 5 * time.Minute
	maxEvents    = 256 // that wait to be handled
)

// frame is what both sides send.
type frame struct {
	Op   int             `json:"op"`
	Data json.RawMessage `json:"d"`
	Seq  *int64          `json:"s,omitempty"`
	Type string          `json:"t,omitempty"`
}

// errFresh says that the session is over, and a new one is needed.
var errFresh = errors.New("the session was ended by Discord")

// run receives messages until ctx ends.
func (b *Bot) run(ctx context.Context, damage func() string) {
	b.damage = damage
	for pause := b.times.first(); ctx.Err() == nil; pause = min(2*pause, b.times.longest()) {
		b.up = false
		err := b.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if b.up {
			pause = b.times.first()
		}
		b.opt.Log.Info("connection to Discord ended", "channel", b.channel.Name, "error", err)
		if !chat.Wait(ctx, b.failed(err, pause)) {
			return
		}
	}
}

// failed notes why there is no connection, and returns for how long to wait.
func (b *Bot) failed(err error, pause time.Duration) time.Duration {
	if errors.Is(err, errFresh) {
		b.session = session{}
		return b.times.first() + rand.N(4*b.times.first())
	}
	var closed websocket.CloseError
	var said *apiError
	switch {
	case errors.As(err, &closed):
		if text := b.fatal(int(closed.Code)); text != "" {
			b.session = session{}
			b.standing.Tell(chat.StateFailing, text)
			return b.times.denied()
		}
		switch closed.Code {
		case closeSequence, closeTimeout:
			b.session = session{}
		}
	case errors.As(err, &said) && said.Status == http.StatusUnauthorized:
		b.standing.Tell(chat.StateFailing, b.fatal(closeToken))
		return b.times.denied()
	}
	if !b.up { // one that is resumed at once is no trouble worth telling
		b.standing.Tell(chat.StateFailing, "no connection to Discord: "+chat.Clip(err.Error()))
	}
	return pause
}

// fatal says what a person has to do about a code, "" where that is nothing.
func (b *Bot) fatal(code int) string {
	switch code {
	case closeToken:
		return "Discord refuses the token; set the secret " + b.channel.Secret + " anew, with the bot's token from the Developer Portal"
	case closeDenied, closeIntents:
		return fmt.Sprintf("Discord does not let the bot receive messages (%d, disallowed intents); look at the bot's page in the Developer Portal, under Privileged Gateway Intents", code)
	case closeSharding, closeShard:
		return fmt.Sprintf("the bot is on too many servers for one connection (%d)", code)
	case closeVersion:
		return fmt.Sprintf("Discord does not speak this version of its gateway protocol any more (%d); use a newer mvm", code)
	}
	return ""
}

// conn is one connection.
type conn struct {
	*websocket.Conn
	end     context.CancelCauseFunc
	events  chan frame
	seq     atomic.Int64 // for heartbeats
	acked   atomic.Bool
	waiting atomic.Bool // nothing is read, since events are full
}

// connect has a connection until it ends, and returns why it did.
func (b *Bot) connect(ctx context.Context) error {
	at, err := b.address(ctx)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	dial, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	ws, resp, err := websocket.Dial(dial, at, &websocket.DialOptions{HTTPClient: b.opt.HTTP, CompressionMode: websocket.CompressionDisabled})
	if resp != nil && resp.Body != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		b.session.url = "" // the next attempt asks for the address
		return mvm.Errorf(mvm.KindUnavailable, "connect to Discord's gateway: %w", chat.WithoutURL(err))
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(maxFrame)
	c := &conn{Conn: ws, end: end, events: make(chan frame, maxEvents)}
	c.seq.Store(b.session.seq)
	every, err := c.hello(dial)
	if err != nil {
		return err
	}
	if err := b.open(ctx, c); err != nil {
		return err
	}
	done := make(chan struct{}, 2)
	go func() { defer func() { done <- struct{}{} }(); c.beat(ctx, every) }()
	go func() { defer func() { done <- struct{}{} }(); end(c.read(ctx)) }()
	end(b.handle(ctx, c))
	_ = ws.CloseNow()
	<-done
	<-done
	return context.Cause(ctx)
}

// address is where to connect to.
func (b *Bot) address(ctx context.Context) (string, error) {
	at := b.session.url
	if b.session.id == "" || at == "" {
		var g struct {
			URL   string `json:"url"`
			Limit *struct {
				Remaining int   `json:"remaining"`
				After     int64 `json:"reset_after"`
			} `json:"session_start_limit"`
		}
		if err := b.api.call(ctx, http.MethodGet, "/gateway/bot", nil, &g); err != nil {
			return "", err
		}
		if l := g.Limit; b.session.id == "" && l != nil && l.Remaining == 0 && l.After > 0 {
			wait := min(time.Duration(l.After)*time.Millisecond, 24*time.Hour)
			b.standing.Tell(chat.StateFailing, "Discord allows no more connections of this bot for "+wait.Round(time.Second).String())
			if !chat.Wait(ctx, wait) {
				return "", context.Cause(ctx)
			}
		}
		at = g.URL
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "wss" && (u.Scheme != "ws" || !strings.HasPrefix(b.channel.APIRoot, "http://")) {
		return "", mvm.Errorf(mvm.KindUnavailable, "connect to Discord's gateway: %.100q is not its address", at)
	}
	u.RawQuery = "v=10&encoding=json"
	return u.String(), nil
}

// hello returns how often Discord wants a heartbeat.
func (c *conn) hello(ctx context.Context) (time.Duration, error) {
	f, err := c.next(ctx)
	if err != nil {
		return 0, err
	}
	var d struct {
		Interval int64 `json:"heartbeat_interval"`
	}
	if f.Op != opHello || json.Unmarshal(f.Data, &d) != nil || d.Interval <= 0 {
		return 0, mvm.Errorf(mvm.KindUnavailable, "connect to Discord's gateway: it says no hello")
	}
	return min(max(time.Duration(d.Interval)*time.Millisecond, minBeat), maxBeat), nil
}

func (c *conn) next(ctx context.Context) (f frame, err error) {
	_, text, err := c.Read(ctx)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	return f, err
}

func (c *conn) send(ctx context.Context, op int, data any) error {
	d, err := json.Marshal(data)
	if err != nil {
		return err
	}
	text, err := json.Marshal(frame{Op: op, Data: d})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return c.Write(ctx, websocket.MessageText, text)
}

// open resumes the session, or asks for a new one.
func (b *Bot) open(ctx context.Context, c *conn) error {
	if s := b.session; s.id != "" {
		return c.send(ctx, opResume, map[string]any{"token": b.api.token, "session_id": s.id, "seq": s.seq})
	}
	b.gap = true
	if !chat.Wait(ctx, b.times.identify()-time.Since(b.identified)) {
		return context.Cause(ctx)
	}
	b.identified = time.Now()
	return c.send(ctx, opIdentify, map[string]any{"token": b.api.token, "intents": intents,
		"properties": map[string]string{"os": "linux", "browser": "mvm", "device": "mvm"}})
}

// beat sends heartbeats, and ends the connection where one is not answered before the next.
func (c *conn) beat(ctx context.Context, every time.Duration) {
	c.acked.Store(true)
	for wait := time.Duration(rand.Float64() * float64(every)); chat.Wait(ctx, wait); wait = every {
		if !c.acked.Load() && !c.waiting.Load() {
			c.end(mvm.Errorf(mvm.KindUnavailable, "Discord's gateway does not answer heartbeats"))
			return
		}
		c.acked.Store(false)
		if err := c.pulse(ctx); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *conn) pulse(ctx context.Context) error {
	var seq any
	if n := c.seq.Load(); n > 0 {
		seq = n
	}
	return c.send(ctx, opHeartbeat, seq)
}

// read reads until the connection ends, and returns why it did.
func (c *conn) read(ctx context.Context) error {
	for {
		f, err := c.next(ctx)
		if err != nil {
			return err
		}
		switch f.Op {
		case opAck:
			c.acked.Store(true)
		case opHeartbeat:
			if err := c.pulse(ctx); err != nil {
				return err
			}
		case opReconnect:
			return mvm.Errorf(mvm.KindUnavailable, "Discord's gateway asks to connect again")
		case opInvalid:
			if string(f.Data) == "true" {
				return mvm.Errorf(mvm.KindUnavailable, "Discord's gateway asks to resume later")
			}
			return errFresh
		case opDispatch:
			c.waiting.Store(true)
			select {
			case c.events <- f:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			c.waiting.Store(false)
		}
	}
}

// handle handles events until the connection ends. What was read before its end is handled.
func (b *Bot) handle(ctx context.Context, c *conn) error {
	for {
		select {
		case f := <-c.events:
			if err := b.dispatch(ctx, c, f); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case f := <-c.events:
			if err := b.dispatch(ctx, c, f); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// dispatch handles one event, and only then counts it as seen.
func (b *Bot) dispatch(ctx context.Context, c *conn, f frame) error {
	switch f.Type {
	case "READY":
		var d struct {
			Session string `json:"session_id"`
			URL     string `json:"resume_gateway_url"`
			User    user   `json:"user"`
		}
		if err := json.Unmarshal(f.Data, &d); err != nil || d.Session == "" {
			return mvm.Errorf(mvm.KindUnavailable, "connect to Discord's gateway: its READY is not understood")
		}
		if _, err := b.setSelf(d.User); err != nil {
			return err
		}
		b.session = session{id: d.Session, url: d.URL}
		if err := b.began(ctx); err != nil {
			return err
		}
	case "RESUMED":
		if err := b.began(ctx); err != nil {
			return err
		}
	case "MESSAGE_CREATE":
		// What was missed comes first: history is read from the last message that was kept.
		if err := b.catchUp(ctx); err != nil {
			return err
		}
		self, err := b.learnSelf(ctx)
		if err != nil {
			return err
		}
		if m, ok := b.accept(f.Data, self); ok {
			if err := b.keep(ctx, []posted.Message{m}); err != nil {
				return err
			}
		}
	}
	if f.Seq != nil {
		b.session.seq = *f.Seq
		c.seq.Store(*f.Seq)
	}
	return nil
}

// began is for a session that is there.
func (b *Bot) began(ctx context.Context) error {
	if err := b.catchUp(ctx); err != nil {
		return err
	}
	b.up = true
	b.standing.Tell(chat.StateReady, b.damage())
	return nil
}

// catchUp keeps what was missed.
func (b *Bot) catchUp(ctx context.Context) error {
	if !b.gap {
		return nil
	}
	self, err := b.learnSelf(ctx)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, self); err != nil {
		return err
	}
	b.gap = false
	return nil
}

// keep has the messages on the disk when it returns. Where that can't be, it waits: the
// connection stays, and Discord keeps what comes meanwhile for the session.
func (b *Bot) keep(ctx context.Context, messages []posted.Message) error {
	for pause := b.times.first(); ; pause = min(2*pause, b.times.longest()) {
		err := b.hook.Keep(messages)
		if err == nil {
			if pause > b.times.first() {
				b.standing.Tell(chat.StateReady, b.damage())
			}
			return nil
		}
		b.standing.Tell(chat.StateFailing, "messages can't be kept: "+err.Error())
		if !chat.Wait(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}
