package discord_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/discord"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guestproto"
	"mvm/test/discordapi"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(gatewayEnv); dir != "" {
		os.Exit(serveUntilKilled(dir))
	}
	goleak.VerifyTestMain(m)
}

// Ids of the tests.
const (
	token    = "bot-token.secret"
	alice    = "100000000000000001"
	mallory  = "100000000000000666"
	direct   = "200000000000000001"
	onServer = "200000000000000002"
	server   = "300000000000000001"
)

func channel(from string, allow ...string) guestproto.Channel {
	return guestproto.Channel{Token: []byte(token + "\n"), Key: []byte("k"), Channel: mvm.Channel{Name: "discord", Kind: mvm.ChannelDiscord, Secret: "discord_token",
		Allow: allow, To: mvm.ChannelTarget{PoolID: "workers", TargetPort: 80, Path: "/chat", Selector: mvm.ChannelSelector{From: from}}}}
}

// worker answers messages as the image's control program does: once it has a message it
// works on it, also if nobody asks, and it knows its answers.
type worker struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	turn    func(m asked) (reply answer, takes time.Duration) // nil: "heard: " and the text, at once
	before  func(m asked, w http.ResponseWriter) bool         // true: the request is over
	order   []string                                          // ids of messages, as they came first
	running map[string]chan struct{}
	memory  map[string]answer // not synced
	disk    map[string]answer
	heads   []http.Header
	reaches int
	keys    map[string]int
	busy    bool
	down    error
	events  []guestproto.MessageEvent
}

type answer struct {
	Reply string `json:"reply,omitempty"`
	Error string `json:"error,omitempty"`
}

// asked is a message as a worker gets it.
type asked struct {
	ID      string `json:"id"`
	Chat    string `json:"channel_id"`
	Server  string `json:"guild_id"`
	Content string `json:"content"`
}

func newWorker(t *testing.T) *worker {
	w := &worker{t: t, running: map[string]chan struct{}{}, memory: map[string]answer{}, disk: map[string]answer{}, keys: map[string]int{}}
	w.server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.server.Close)
	return w
}

func (w *worker) serve(rw http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/sync" { // of a gateway that is a process of its own
		_ = w.Sync(r.Context(), "", "", 0)
		return
	}
	var m asked
	if err := json.Unmarshal(b, &m); err != nil || m.ID != r.Header.Get("X-Mvm-Message-Id") || strings.Contains(string(b), token) {
		w.t.Errorf("a worker gets %q of %s: %v", b, r.Header.Get("X-Mvm-Message-Id"), err)
	}
	w.mu.Lock()
	w.heads = append(w.heads, r.Header)
	before := w.before
	w.mu.Unlock()
	if before != nil && before(m, rw) {
		return
	}
	w.mu.Lock()
	a, known := w.memory[m.ID]
	if !known {
		a, known = w.disk[m.ID]
	}
	done := w.running[m.ID]
	if !known && done == nil {
		done = w.begin(m)
	}
	w.mu.Unlock()
	if !known {
		select {
		case <-done:
		case <-time.After(20 * time.Millisecond):
			rw.WriteHeader(202)
			return
		}
		w.mu.Lock()
		a, known = w.memory[m.ID]
		w.mu.Unlock()
		if !known { // it was killed
			panic(http.ErrAbortHandler)
		}
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(a)
}

// begin begins a turn. w.mu is held.
func (w *worker) begin(m asked) chan struct{} {
	a, takes := answer{Reply: "heard: " + m.Content}, time.Duration(0)
	if w.turn != nil {
		a, takes = w.turn(m)
	}
	w.order = append(w.order, m.ID)
	done := make(chan struct{})
	w.running[m.ID] = done
	time.AfterFunc(takes, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.running[m.ID] == done { // not killed
			w.memory[m.ID] = a
			delete(w.running, m.ID)
		}
		close(done)
	})
	return done
}

// kill ends the turns that are under way, and with machine also what is not synced.
func (w *worker) kill(machine bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.running)
	if machine {
		clear(w.memory)
	}
}

// Reach implements chat.Workers.
func (w *worker) Reach(_ context.Context, _, _, key string) (chat.Lease, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reaches++
	w.keys[key]++
	if w.down != nil {
		return nil, w.down
	}
	return lease{w.server.Listener.Addr().String()}, nil
}

func (w *worker) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return guestproto.PreflightAck{Safe: !w.busy}, nil
}

func (*worker) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (w *worker) Sync(context.Context, string, string, int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, a := range w.memory {
		w.disk[id] = a
	}
	return nil
}

// Record implements chat.Recorder.
func (w *worker) Record(_ string, e guestproto.MessageEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *worker) count(what string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.What == what {
			n++
		}
	}
	return n
}

func (w *worker) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

type lease struct{ addr string }

func (lease) Instance() (string, int) { return "i-00000001", 1 }
func (lease) End()                    {}
func (l lease) Dial(ctx context.Context, _ int) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
}

// place is a gateway beside a Discord and a worker.
type place struct {
	t      *testing.T
	api    *discordapi.Server
	worker *worker
	root   string
	dir    string
	c      guestproto.Channel
	shelf  *hook.Shelf
	bot    chat.Adapter
}

func newPlace(t *testing.T, opt discordapi.Options, from string, allow ...string) *place {
	opt.Token = cmp.Or(opt.Token, token)
	if opt.Limit == 0 {
		opt.Limit, opt.Window = 1000, time.Second
	}
	p := &place{t: t, worker: newWorker(t), dir: t.TempDir(), api: discordapi.New(opt), c: channel(from, allow...)}
	s := httptest.NewServer(p.api)
	t.Cleanup(s.Close)
	t.Cleanup(p.api.Close)
	p.root = s.URL + "/api/v10"
	p.c.APIRoot = p.root
	p.api.AddChannel(direct, "")
	p.api.AddChannel(onServer, server)
	t.Cleanup(p.close)
	return p
}

// open opens the gateway's bot, anew where it is open.
func (p *place) open() {
	p.close()
	log := slog.New(slog.DiscardHandler)
	p.shelf = &hook.Shelf{Path: filepath.Join(p.dir, "mvm", "inbox.db"), Ready: func() error { return nil }, Log: log}
	p.bot = discord.Opener(p.shelf)(chat.AdapterOptions{Channel: p.c, Workers: p.worker, Recorder: p.worker, Log: log, HTTP: client(), Limits: quick(), Changed: func() {}})
}

func (p *place) close() {
	if p.bot != nil {
		p.bot.Close()
		if err := p.shelf.Close(); err != nil {
			p.t.Error(err)
		}
		p.bot = nil
	}
}

func client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func quick() chat.Limits {
	return chat.Limits{Poll: time.Millisecond, PollMax: 5 * time.Millisecond, Retry: 2 * time.Millisecond, RetryMax: 20 * time.Millisecond,
		Typing: 50 * time.Millisecond, Slow: time.Hour}
}

func (p *place) until(what string, f func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("waited for: %s; status %+v, Discord %+v, sent %+v", what, p.bot.Status(), p.api.Counts(), p.api.Sent(direct))
		}
	}
}

func (p *place) ready() {
	p.t.Helper()
	p.until("ready", func() bool { return p.bot.Status().State == chat.StateReady && p.api.Connected() })
}

func (p *place) texts(channel string) (out []string) {
	for _, m := range p.api.Sent(channel) {
		out = append(out, m.Text)
	}
	return out
}

func (p *place) kept() []inbox.Entry {
	e, err := p.shelf.Entries()
	if err != nil {
		p.t.Error(err)
	}
	return e
}

// answered waits until so many messages are sent to the channel, and nothing waits.
func (p *place) answered(channel string, n int) {
	p.t.Helper()
	p.until("answers", func() bool { return len(p.api.Sent(channel)) >= n && len(p.kept()) == 0 })
}

var errDown = errors.New("down")
