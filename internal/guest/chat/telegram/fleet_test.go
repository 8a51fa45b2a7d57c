package telegram_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guestproto"
	"mvm/test/botapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds the wait for what has to come, on a machine with other work.
const patience = 2 * time.Minute

const token = "111111:REALTOKEN_aaaaaaaaaaaaaaaaaaaaaaaaaaa"

// fleet are workers that keep OpenClaw's rules: an update that is answered with 200 is on
// disk once the disk is synced, a known update is dropped, turns are made one at a time, and
// those that were accepted are made after a crash.
type fleet struct {
	t    *testing.T
	s    *stage
	hook func(step string, w *worker) // may kill; called without locks

	mu       sync.Mutex
	workers  map[string]*worker // by key
	reaches  int
	away     int             // of the next questions to the host, so many are not answered: it has no agent
	channels map[string]bool // that asked
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, workers: map[string]*worker{}, channels: map[string]bool{}}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, w := range f.workers {
			w.server.Close()
			w.turns.Wait()
		}
	})
	return f
}

func (f *fleet) step(name string, w *worker) {
	if f.hook != nil {
		f.hook(name, w)
	}
}

// agent is the error of a question to a host whose agent is gone.
func (f *fleet) agent() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away == 0 {
		return nil
	}
	f.away--
	return errors.New("the host does not answer")
}

// worker is one instance.
type worker struct {
	f      *fleet
	id     string
	key    string
	server *httptest.Server
	turns  sync.WaitGroup

	sends    sync.RWMutex // held while it sends an answer
	mu       sync.Mutex
	boot     int
	life     int                // of the process
	born     time.Time          // when that began
	disk     map[int64]accepted // synced
	cache    map[int64]accepted // and what is not yet
	order    []accepted         // in which updates were accepted first, and kept
	answered map[int64]int      // turns that were made
	lost     map[int64]bool     // of them before the disk lost the update: a turn is made again
	busy     bool
	held     bool          // services hold still
	hold     chan struct{} // keeps turns from ending; nil: nothing does
	status   int           // of the answer; 0: 200
	plain    bool          // without the header
	heads    []http.Header // that were seen
	down     bool          // it can't be reached
	reach    error
	broken   bool           // it takes no messages, and says so
	mute     bool           // what it sends is lost, as where no gateway takes it
	speaks   bool           // its turns end with a message to the chat
	drafts   bool           // and begin with one
	tried    map[int64]bool // turns whose message was about to be sent: it is not sent again
	state    mvm.State      // empty: it runs
	looks    int            // at it, while it is idle
}

type accepted struct {
	id   int64
	chat int64
	text string
}

// of is the worker of the key, made on first use.
func (f *fleet) of(key string) *worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.workers[key]
	if w == nil {
		w = &worker{f: f, born: time.Now(), id: "i-" + key, key: key, boot: 1, disk: map[int64]accepted{}, cache: map[int64]accepted{}, answered: map[int64]int{}, lost: map[int64]bool{}, tried: map[int64]bool{}}
		w.server = httptest.NewServer(w)
		f.workers[key] = w
	}
	return w
}

func (f *fleet) all() []*worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*worker
	for _, w := range f.workers {
		out = append(out, w)
	}
	return out
}

// Reach implements chat.Workers.
func (f *fleet) Reach(ctx context.Context, channel, pool, key string) (chat.Lease, error) {
	f.mu.Lock()
	f.reaches++
	f.channels[channel] = true
	f.mu.Unlock()
	w := f.of(key)
	f.step("reach", w)
	if err := f.agent(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reach != nil {
		return nil, w.reach
	}
	if w.state == mvm.StateStopped {
		w.state = ""
		go w.turn()
	}
	return &lease{w: w, boot: w.boot}, ctx.Err()
}

// Preflight implements chat.Workers.
func (f *fleet) Preflight(_ context.Context, _, instance string) (guestproto.PreflightAck, error) {
	w := f.of(instance[2:])
	f.step("preflight", w)
	if err := f.agent(); err != nil {
		return guestproto.PreflightAck{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return guestproto.PreflightAck{}, errors.New("no such guest")
	}
	if !w.busy {
		w.looks++
	}
	return guestproto.PreflightAck{Safe: !w.busy && !w.held && !w.broken, Held: w.held || w.broken, Broken: w.broken, Restarts: w.life, AgeMS: time.Since(w.born).Milliseconds()}, nil
}

// State implements chat.Workers.
func (f *fleet) State(_ context.Context, _, instance string) (mvm.State, int, error) {
	w := f.of(instance[2:])
	if err := f.agent(); err != nil {
		return "", 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return cmp.Or(w.state, mvm.StateRunning), w.boot, nil
}

// Sync implements chat.Workers.
func (f *fleet) Sync(_ context.Context, _, instance string, boot int) error {
	w := f.of(instance[2:])
	f.step("accepted", w)
	if err := f.agent(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.down || boot != w.boot {
		w.mu.Unlock()
		return errors.New("it has booted anew")
	}
	maps.Copy(w.disk, w.cache)
	w.mu.Unlock()
	f.step("synced", w)
	return f.agent()
}

type lease struct {
	w    *worker
	boot int
}

func (l *lease) Instance() (string, int) { return l.w.id, l.boot }
func (l *lease) End()                    {}

func (l *lease) Dial(ctx context.Context, _ int) (net.Conn, error) {
	l.w.f.step("dial", l.w)
	l.w.mu.Lock()
	down := l.w.down
	l.w.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	return new(net.Dialer).DialContext(ctx, "tcp", l.w.server.Listener.Addr().String())
}

// kill ends the worker's process, or with it the machine: what was not synced is lost. early
// are updates that were lost after their turn was made.
func (w *worker) kill(machine bool) (early []int64) {
	w.sends.Lock()
	w.mu.Lock()
	w.life++
	w.born = time.Now()
	if machine {
		w.boot++
		for id := range w.cache {
			if _, ok := w.disk[id]; !ok && w.answered[id] > 0 {
				early = append(early, id)
				w.lost[id] = true
			}
		}
		w.cache = maps.Clone(w.disk)
		kept := w.order[:0]
		for _, a := range w.order {
			if _, ok := w.cache[a.id]; ok {
				kept = append(kept, a)
			}
		}
		w.order = kept
	}
	w.busy = false
	stopped := w.state == mvm.StateStopped
	w.mu.Unlock()
	w.sends.Unlock()
	w.server.CloseClientConnections()
	if !stopped {
		w.turn()
	}
	return early
}

// speak sends to the chat, as the worker does, by the bot's proxy.
func (w *worker) speak(chat int64, text string) {
	body := fmt.Sprintf(`{"chat_id":%d,"text":%q}`, chat, text)
	r := httptest.NewRequest(http.MethodPost, "/bot"+w.f.s.is.Placeholder(w.id, w.key)+"/sendMessage", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w.mu.Lock()
	mute := w.mute
	w.mu.Unlock()
	if mute {
		return
	}
	w.f.s.current().Proxy(httptest.NewRecorder(), r)
}

// answer makes the turn's message, and reports false where the worker dies before it is sent.
func (w *worker) answer(a accepted, life int) bool {
	w.mu.Lock()
	again, alive := w.tried[a.id], w.life == life
	if alive {
		w.tried[a.id] = true
	}
	w.mu.Unlock()
	if !alive {
		return false
	}
	if w.drafts && !again {
		w.speak(a.chat, "working on "+a.text)
	}
	w.f.step("tried", w)
	w.sends.RLock() // who is dead sends nothing more
	defer w.sends.RUnlock()
	w.mu.Lock()
	alive = w.life == life
	w.mu.Unlock()
	if alive && !again {
		w.speak(a.chat, "re: "+a.text)
	}
	return alive
}

// ServeHTTP is the webhook listener.
func (w *worker) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.f.step("posted", w)
	var u struct {
		ID      int64 `json:"update_id"`
		Message struct {
			Text string `json:"text"`
			Chat struct {
				ID int64 `json:"id"`
			} `json:"chat"`
		} `json:"message"`
	}
	if err := json.NewDecoder(r.Body).Decode(&u); err != nil || r.URL.Path != "/telegram-webhook" {
		rw.WriteHeader(400)
		return
	}
	w.mu.Lock()
	w.heads = append(w.heads, r.Header.Clone())
	status, plain := w.status, w.plain
	if _, known := w.cache[u.ID]; !known && status == 0 {
		a := accepted{u.ID, u.Message.Chat.ID, u.Message.Text}
		w.cache[u.ID] = a
		w.order = append(w.order, a)
	}
	w.mu.Unlock()
	w.f.step("stored", w)
	if status != 0 {
		rw.WriteHeader(status)
		return
	}
	if !plain {
		rw.Header().Set("X-Openclaw-Delivery-Accepted", "durable")
	}
	rw.WriteHeader(200)
	w.turn()
}

// turn makes turns of what is accepted, until all are made.
func (w *worker) turn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy {
		return
	}
	w.busy = true
	life := w.life
	w.turns.Go(func() {
		for {
			w.mu.Lock()
			next, hold, speaks, turn := int64(0), w.hold, w.speaks, accepted{}
			for _, a := range w.order {
				if w.answered[a.id] == 0 || w.lost[a.id] {
					next, turn = a.id, a
					break
				}
			}
			if next == 0 || w.life != life {
				w.busy = w.busy && w.life != life
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			if hold != nil {
				<-hold
			}
			time.Sleep(time.Millisecond)
			if speaks && life > 0 { // no process is up and sends at once
				time.Sleep(5 * time.Millisecond)
			}
			if speaks && !w.answer(turn, life) {
				continue
			}
			w.mu.Lock()
			if w.life == life {
				w.answered[next]++
				delete(w.lost, next)
			}
			w.mu.Unlock()
		}
	})
}

func (w *worker) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// texts are what the worker has accepted, in order.
func (w *worker) texts() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.order {
		out = append(out, a.text)
	}
	return out
}

// events collects what is recorded.
type events struct {
	mu  sync.Mutex
	all []guestproto.MessageEvent
}

func (e *events) Record(_ string, m guestproto.MessageEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, m)
}

func (e *events) count(what string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.all {
		if m.What == what {
			n++
		}
	}
	return n
}

// stage is a bot with its server and workers.
type stage struct {
	t      *testing.T
	api    *botapi.Server
	server *httptest.Server
	fleet  *fleet
	events *events
	client *http.Client
	is     guestproto.Channel
	lim    chat.Limits
	mu     sync.Mutex // for workers' use of bot
	bot    chat.Adapter
	shelf  *hook.Shelf   // on the gateway's data disk; nil: it has none
	debts  chan struct{} // as that of the next disk
	disk   *disk         // of the bot that is open
}

func newStage(t *testing.T, change func(*guestproto.Channel)) *stage {
	s := &stage{t: t, api: botapi.New(token, nil), fleet: newFleet(t), events: &events{},
		lim: chat.Limits{Poll: time.Millisecond, PollMax: 10 * time.Millisecond, Retry: 2 * time.Millisecond, RetryMax: 50 * time.Millisecond, Typing: 50 * time.Millisecond,
			Look: 5 * time.Millisecond, LookMax: 20 * time.Millisecond, Recovery: 50 * time.Millisecond}}
	s.fleet.s = s
	s.server = httptest.NewServer(s.api)
	transport := &http.Transport{}
	s.client = &http.Client{Transport: transport}
	s.is = guestproto.Channel{Token: []byte(token + "\n"), Key: []byte("k"), Channel: mvm.Channel{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token",
		Allow: []string{"7"}, APIRoot: s.server.URL,
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:alice"}, TargetPort: 8787, Path: "/telegram-webhook", Accept: mvm.AcceptDurable}}}
	if change != nil {
		change(&s.is)
	}
	t.Cleanup(func() {
		if s.bot != nil {
			s.bot.Close()
		}
		s.api.Close()
		s.server.Close()
		transport.CloseIdleConnections()
	})
	return s
}

func (s *stage) open() *stage {
	opt := chat.AdapterOptions{Channel: s.is, Workers: s.fleet, Recorder: s.events, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		HTTP: s.client, Limits: s.lim, Changed: func() {}}
	if s.shelf != nil {
		s.disk = &disk{Disk: s.shelf.Disk(opt), debts: s.debts}
		opt.Disk = s.disk
		s.disk.opt = opt
	}
	bot := telegram.Open(opt)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bot = bot
	return s
}

// current is the bot that is open, for workers.
func (s *stage) current() chat.Adapter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bot
}

// until waits for what has to become true.
func (s *stage) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %s; status %+v, pending %d", what, patience, s.bot.Status(), len(s.api.Pending()))
		}
	}
}

func (s *stage) confirmed() bool { return len(s.api.Pending()) == 0 }
