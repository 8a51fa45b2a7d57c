package hook_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(gatewayEnv); dir != "" {
		os.Exit(serveUntilKilled(dir))
	}
	goleak.VerifyTestMain(m)
}

const secret = "s3cret"

func channel(kind mvm.ChannelKind, from string, allow ...string) guestproto.Channel {
	c := guestproto.Channel{Token: []byte(secret), Key: []byte("k"), Verify: []byte("v"), Channel: mvm.Channel{Name: "hook", Kind: kind, Mode: mvm.ChannelWebhook, Secret: "s",
		Allow: allow, Port: 8443, To: mvm.ChannelTarget{PoolID: "workers", TargetPort: 80, Path: "/in", Selector: mvm.ChannelSelector{From: from}}}}
	if kind == mvm.ChannelWhatsApp {
		c.VerifySecret = "v"
	}
	if kind == mvm.ChannelHook {
		c.ChatFrom, c.SenderFrom = "json:/chat", "json:/from"
	}
	return c
}

// got is a message that a worker has.
type got struct {
	key, id, body string
	head          http.Header
}

// fleet are workers, of which each key has one, and the platform's side of what the adapter
// says.
type fleet struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	reaches int
	busy    bool // its worker has a turn under way
	asked   int  // how often that was looked at
	down    error
	answer  func(g got) (status int, header http.Header) // nil: 200
	got     []got
	events  []guestproto.MessageEvent
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		g := got{key: r.Header.Get("X-Test-Key"), id: r.Header.Get("X-Mvm-Message-Id"), body: string(b), head: r.Header}
		f.mu.Lock()
		status, head := 200, http.Header(nil)
		if f.answer != nil {
			status, head = f.answer(g)
		}
		if status/100 == 2 {
			f.got = append(f.got, g)
		}
		f.mu.Unlock()
		for k, v := range head {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(f.server.Close)
	return f
}

// Reach implements chat.Workers.
func (f *fleet) Reach(_ context.Context, _, _, key string) (chat.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reaches++
	if f.down != nil {
		return nil, f.down
	}
	return lease{f.server.Listener.Addr().String(), key}, nil
}

func (f *fleet) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return guestproto.PreflightAck{Safe: !f.busy}, nil
}

func (f *fleet) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (f *fleet) Sync(context.Context, string, string, int) error { return nil }

// Record implements chat.Recorder.
func (f *fleet) Record(_ string, e guestproto.MessageEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
}

func (f *fleet) count(what string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.What == what {
			n++
		}
	}
	return n
}

func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// bodies are what workers have, in the order of their coming.
func (f *fleet) bodies() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.got {
		out = append(out, g.body)
	}
	return out
}

func (f *fleet) wait(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: not so after a minute; workers have %q, events %+v", what, f.bodies(), f.events)
		}
	}
}

type lease struct{ addr, key string }

func (l lease) Instance() (string, int) { return "i-" + l.key, 1 }
func (l lease) End()                    {}
func (l lease) Dial(ctx context.Context, _ int) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
}

// gateway is a channel at work, with its inbox in a folder.
type gateway struct {
	chat.Adapter
	f     *fleet
	c     guestproto.Channel
	shelf *hook.Shelf
	close func()
}

func quick() chat.Limits {
	return chat.Limits{Retry: 2 * time.Millisecond, RetryMax: 20 * time.Millisecond}
}

func (f *fleet) open(dir string, c guestproto.Channel, lim inbox.Limits) *gateway {
	f.t.Helper()
	log := slog.New(slog.DiscardHandler)
	g := &gateway{f: f, c: c, shelf: &hook.Shelf{Path: filepath.Join(dir, "mvm", "inbox.db"), Ready: func() error { return nil }, Log: log, Limits: lim}}
	g.Adapter = hook.Opener(g.shelf)(chat.AdapterOptions{Channel: c, Workers: f, Recorder: f, Log: log, Limits: quick(), Changed: func() {}})
	g.close = sync.OnceFunc(func() {
		g.Close()
		if err := g.shelf.Close(); err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(g.close)
	return g
}

// post posts as the platform does.
func (g *gateway) post(id, body string) *httptest.ResponseRecorder {
	return g.send(http.MethodPost, posted.Sign(g.c, secret, id, []byte(body), time.Now()), strings.NewReader(body))
}

func (g *gateway) send(method string, head http.Header, body io.Reader) *httptest.ResponseRecorder {
	path, h := g.Webhook()
	r := httptest.NewRequest(method, path, body)
	r.Header = head
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (g *gateway) accepts(id, body string) {
	g.f.t.Helper()
	if w := g.post(id, body); w.Code != 200 {
		g.f.t.Fatalf("%s: %d %s", body, w.Code, w.Body)
	}
}

func (g *gateway) kept() []inbox.Entry {
	g.f.t.Helper()
	entries, err := g.shelf.Entries()
	if err != nil {
		g.f.t.Fatal(err)
	}
	return entries
}

// TestEveryPlatform: what a platform posts reaches the worker of its key, signed by the
// platform's rule with the worker's own secret, and each message of a request by itself.
func TestEveryPlatform(t *testing.T) {
	for name, x := range map[string]struct {
		c    guestproto.Channel
		body string
		keys []string
	}{
		"slack":    {channel(mvm.ChannelSlack, mvm.KeyFromChat, "U1", "C1"), `{"type":"event_callback","event_id":"Ev1","event":{"channel":"C1","user":"U1"}}`, []string{"C1"}},
		"whatsapp": {channel(mvm.ChannelWhatsApp, mvm.KeyFromSender, "49"), `{"entry":[{"changes":[{"value":{"messages":[{"from":"49","id":"1"},{"from":"50","id":"2"},{"from":"49","id":"3"}]}}]}]}`, []string{"49", "49"}},
		"line":     {channel(mvm.ChannelLine, "fixed:me", "U1"), `{"events":[{"webhookEventId":"1","source":{"userId":"U1"}},{"webhookEventId":"2","source":{"userId":"U2"}}]}`, []string{"me"}},
		"webhook":  {channel(mvm.ChannelHook, "", "bob"), `{"chat":"1","from":"bob"}`, []string{""}},
	} {
		f := newFleet(t)
		g := f.open(t.TempDir(), x.c, inbox.Limits{})
		for range 3 { // the platform sends it again
			g.accepts("id-1", x.body)
		}
		f.wait(name, func() bool { return f.count(guestproto.MessageAccepted) >= len(x.keys) && len(g.kept()) == 0 })
		g.close()
		if len(f.got) != len(x.keys) || f.count(guestproto.MessageAccepted) != len(x.keys) {
			t.Errorf("%s: workers have %+v", name, f.got)
			continue
		}
		for n, at := range f.got {
			as := x.c
			as.Token = []byte(x.c.WebhookSecret("i-" + x.keys[n]))
			p, err := posted.Read(as, posted.Request{Method: "POST", Header: at.head, Body: []byte(at.body)}, time.Now())
			if err != nil || len(p.Messages) != 1 || p.Messages[0].ID != at.id {
				t.Errorf("%s: the worker reads %+v, %v of %+v", name, p, err, at)
			}
		}
	}
}

// TestChallenge: the question whether the address is the channel's is answered.
func TestChallenge(t *testing.T) {
	f := newFleet(t)
	g := f.open(t.TempDir(), channel(mvm.ChannelSlack, "", "*"), inbox.Limits{})
	if w := g.post("", `{"type":"url_verification","challenge":"<b>abc"}`); w.Code != 200 || w.Body.String() != "<b>abc" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("%d %s %s", w.Code, w.Header(), w.Body)
	}
}

// TestNobodyIsWokenForStrangers: no instance is asked for and nothing is kept of a sender or
// a group that is not allowed, or of a request that is not the platform's.
func TestNobodyIsWokenForStrangers(t *testing.T) {
	f := newFleet(t)
	g := f.open(t.TempDir(), channel(mvm.ChannelSlack, mvm.KeyFromChat, "U1", "C1"), inbox.Limits{})
	event := func(user, chat string) string {
		return `{"type":"event_callback","event_id":"Ev","event":{"channel":"` + chat + `","user":"` + user + `"}}`
	}
	for _, body := range []string{event("U2", "C1"), event("U1", "C2"), event("U2", "D2"), event("", "D1"), event("", ""), event("U1", "C2 /x")} {
		if w := g.post("", body); w.Code != 200 {
			t.Errorf("%s: %d", body, w.Code)
		}
	}
	if w := g.send("POST", posted.Sign(g.c, "forged", "", []byte(event("U1", "C1")), time.Now()), strings.NewReader(event("U1", "C1"))); w.Code != 401 {
		t.Errorf("forged: %d", w.Code)
	}
	if w := g.post("", "nonsense"); w.Code != 400 {
		t.Errorf("nonsense: %d", w.Code)
	}
	if w := g.send("GET", nil, nil); w.Code == 200 {
		t.Errorf("GET: %d", w.Code)
	}
	if n := f.count(guestproto.MessageRefused); f.reaches != 0 || len(g.kept()) != 0 || n != 9 {
		t.Errorf("%d instances were asked for, %d messages are kept, %d refusals", f.reaches, len(g.kept()), n)
	}
	for _, e := range f.events {
		if strings.Contains(e.Chat, "C2") || strings.Contains(e.Detail, "C2") {
			t.Errorf("an event names the chat: %+v", e)
		}
	}
}

func text(chat, text string) string {
	return `{"chat":"` + chat + `","from":"bob","text":"` + text + `"}`
}

// TestWorkerIsDown: messages wait while the worker can't be reached or says "later", for as
// long as it takes, and then arrive in order; another chat's go on.
func TestWorkerIsDown(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	c := channel(mvm.ChannelHook, mvm.KeyFromChat, "bob")
	g := f.open(dir, c, inbox.Limits{})
	tries := 0
	f.answer = func(at got) (int, http.Header) {
		if strings.Contains(at.body, `"chat":"2"`) {
			return 200, nil
		}
		if tries++; tries > 60 {
			return 200, nil
		}
		return []int{503, 429}[tries%2], http.Header{"Retry-After": {"0"}}
	}
	f.down = errors.New("the host refuses")
	for _, m := range []string{"a", "b", "c"} {
		g.accepts(m, text("1", m))
	}
	g.accepts("x", text("2", "x"))
	f.wait("tries", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.reaches > 5 })
	if n := g.Status().Waiting; n != 4 {
		t.Errorf("%d wait", n)
	}
	g.close() // the gateway restarts
	f.set(func() { f.down = nil })
	g = f.open(dir, c, inbox.Limits{})
	f.wait("all delivered", func() bool { return len(f.bodies()) == 4 && len(g.kept()) == 0 })
	var one []string
	for _, b := range f.bodies() {
		if strings.Contains(b, `"chat":"1"`) {
			one = append(one, b)
		}
	}
	if want := []string{text("1", "a"), text("1", "b"), text("1", "c")}; !slices.Equal(one, want) || f.bodies()[0] != text("2", "x") {
		t.Errorf("workers have %q", f.bodies())
	}
}

// TestRetryAfter: what a worker asks for is respected.
func TestRetryAfter(t *testing.T) {
	f := newFleet(t)
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	var first, second time.Time
	f.answer = func(got) (int, http.Header) {
		if first.IsZero() {
			first = time.Now()
			return 503, http.Header{"Retry-After": {"1"}}
		}
		second = time.Now()
		return 200, nil
	}
	g.accepts("a", text("1", "a"))
	f.wait("delivered", func() bool { return len(f.bodies()) == 1 })
	if d := second.Sub(first); d < time.Second {
		t.Errorf("tried again after %s", d)
	}
}

// TestPoison: a message that the worker refuses again and again is set aside, also where
// the gateway restarts in between; the next ones are delivered; it can be tried again.
func TestPoison(t *testing.T) {
	f := newFleet(t)
	dir, c := t.TempDir(), channel(mvm.ChannelHook, "", "*")
	tries := 0
	f.answer = func(at got) (int, http.Header) {
		if !strings.Contains(at.body, "poison") {
			return 200, nil
		}
		tries++
		if tries == 3 {
			f.down = errors.New("stop here")
		}
		return 400, nil
	}
	g := f.open(dir, c, inbox.Limits{})
	g.accepts("p", text("1", "poison"))
	g.accepts("a", text("1", "a"))
	f.wait("3 tries", func() bool { e := g.kept(); return len(e) == 2 && e[0].Refusals == 3 })
	g.close()
	f.set(func() { f.down = nil })
	g = f.open(dir, c, inbox.Limits{})
	f.wait("the next one", func() bool { return len(f.bodies()) == 1 && len(g.kept()) == 1 })
	e := g.kept()
	if len(e) != 1 || !e[0].Aside || !strings.Contains(e[0].Why, "400") || tries != 5 || f.count(guestproto.MessageSetAside) != 1 {
		t.Fatalf("after %d tries the inbox has %+v", tries, e)
	}
	if w := g.post("p", text("1", "poison")); w.Code != 200 || len(g.kept()) != 1 {
		t.Errorf("a repeat of it: %d, %+v", w.Code, g.kept())
	}
	f.set(func() { f.answer = nil })
	if err := g.shelf.Retry(e[0].Number); err != nil {
		t.Fatal(err)
	}
	f.wait("tried again", func() bool { return len(f.bodies()) == 2 && len(g.kept()) == 0 })
}

// TestDrop: what is dropped while it waits is tried no more, and no instance is asked for.
func TestDrop(t *testing.T) {
	f := newFleet(t)
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	f.down = errors.New("down")
	g.accepts("a", text("1", "a"))
	f.wait("a try", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.reaches > 0 })
	if err := g.shelf.Drop(g.kept()[0].Number); err != nil {
		t.Fatal(err)
	}
	f.wait("nothing waits", func() bool { return g.Status().Waiting == 0 })
	f.set(func() { f.down = nil })
	g.accepts("b", text("1", "b"))
	f.wait("the next one", func() bool { return len(g.kept()) == 0 && f.count(guestproto.MessageAccepted) > 0 })
	if b := f.bodies(); len(b) != 1 || b[0] != text("1", "b") {
		t.Errorf("workers have %q, events %+v", f.bodies(), f.events)
	}
}

// TestDropWhileTheWorkerIsBusy: a message that waits for a worker's turn to end can be dropped
// as well.
func TestDropWhileTheWorkerIsBusy(t *testing.T) {
	f := newFleet(t)
	f.busy = true
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	g.accepts("a", text("1", "a"))
	f.wait("the worker is asked", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.asked > 0 })
	if err := g.shelf.Drop(g.kept()[0].Number); err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.busy = false })
	f.wait("nothing waits", func() bool { return g.Status().Waiting == 0 })
	if b := f.bodies(); len(b) != 0 {
		t.Errorf("workers have %q", b)
	}
}

// TestAge: a message that waits for too long is set aside.
func TestAge(t *testing.T) {
	f := newFleet(t)
	f.down = errors.New("the host refuses")
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{Age: 3 * time.Second})
	g.accepts("a", text("1", "a"))
	f.wait("set aside", func() bool { e := g.kept(); return len(e) == 1 && e[0].Aside })
	if e := g.kept()[0]; !strings.Contains(e.Why, "waited") || !strings.Contains(e.Why, "the host refuses") {
		t.Errorf("%+v", e)
	}
}

// TestBounds: a platform learns when nothing can be kept, and a flood of one chat costs the
// others nothing.
func TestBounds(t *testing.T) {
	f := newFleet(t)
	f.down = errors.New("down")
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, mvm.KeyFromChat, "*"), inbox.Limits{Chat: 2, Messages: 4})
	for n := range 10 {
		g.accepts("flood"+string(rune('0'+n)), text("1", "x"))
	}
	g.accepts("other", text("2", "x"))
	if n := f.count(guestproto.MessageRefused); len(g.kept()) != 3 || n != 8 {
		t.Errorf("%d kept, %d refused", len(g.kept()), n)
	}
	g.accepts("third", text("3", "x"))
	if w := g.post("fourth", text("4", "x")); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("a full inbox: %d %v", w.Code, w.Header())
	}
	if w := g.post("huge", `{"chat":"5","from":"`+strings.Repeat("x", 4<<20)+`"}`); w.Code != 413 {
		t.Errorf("a huge body: %d", w.Code)
	}
	if w := g.send("POST", http.Header{}, io.MultiReader(strings.NewReader("x"), strings.NewReader(strings.Repeat("y", 4<<20)))); w.Code != 413 {
		t.Errorf("a huge body of unknown size: %d", w.Code)
	}
	if w := g.send("POST", http.Header{}, iotestReader{}); w.Code != 400 {
		t.Errorf("a body that breaks off: %d", w.Code)
	}
}

// TestFloodOfTheTenant: what waits in all channels together is bounded; a platform learns that
// no more is taken now, and what waits already is delivered.
func TestFloodOfTheTenant(t *testing.T) {
	f := newFleet(t)
	f.down = errors.New("down")
	shelf := &hook.Shelf{Path: filepath.Join(t.TempDir(), "inbox.db"), Log: slog.New(slog.DiscardHandler), Ready: func() error { return nil }}
	flood, gates := chat.NewFlood(3), map[string]*gateway{}
	for _, name := range []string{"one", "two"} {
		c := channel(mvm.ChannelHook, mvm.KeyFromChat, "*")
		c.Name = name
		gates[name] = &gateway{f: f, c: c, shelf: shelf, Adapter: hook.Opener(shelf)(chat.AdapterOptions{Channel: c, Workers: f, Recorder: f, Log: shelf.Log,
			Limits: quick(), Flood: flood, Changed: func() {}})}
	}
	defer func() {
		for _, g := range gates {
			g.Close()
		}
		_ = shelf.Close()
	}()
	gates["one"].accepts("a", text("1", "a"))
	gates["two"].accepts("b", text("2", "b"))
	gates["one"].accepts("c", text("3", "c"))
	for _, g := range gates {
		if w := g.post("d", text("4", "d")); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("while three wait: %d %v", w.Code, w.Header())
		}
	}
	f.mu.Lock()
	f.down = nil
	f.mu.Unlock()
	f.wait("delivered", func() bool { return len(f.bodies()) == 3 })
	f.wait("more is taken", func() bool { return gates["two"].post("d", text("4", "d")).Code == 200 })
}

type iotestReader struct{}

func (iotestReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestNoDataDisk: without a disk that outlasts the machine nothing is accepted, and the
// channel says why; it goes on by itself once there is one.
func TestNoDataDisk(t *testing.T) {
	f := newFleet(t)
	dir, c := t.TempDir(), channel(mvm.ChannelHook, "", "*")
	log := slog.New(slog.DiscardHandler)
	var ready sync.Map
	shelf := &hook.Shelf{Path: filepath.Join(dir, "inbox.db"), Log: log, Ready: func() error {
		if _, ok := ready.Load("ready"); !ok {
			return errors.New("no data disk")
		}
		return nil
	}}
	g := &gateway{f: f, c: c, shelf: shelf}
	g.Adapter = hook.Opener(shelf)(chat.AdapterOptions{Channel: c, Workers: f, Recorder: f, Log: log, Limits: quick(), Changed: func() {}})
	defer func() {
		g.Close()
		_ = shelf.Close()
	}()
	f.wait("failing", func() bool { return g.Status().State == chat.StateFailing })
	if s := g.Status(); !strings.Contains(s.Detail, "no data disk") {
		t.Errorf("%+v", s)
	}
	if w := g.post("a", text("1", "a")); w.Code != 503 {
		t.Errorf("accepted without a disk: %d", w.Code)
	}
	ready.Store("ready", true)
	f.wait("ready", func() bool { return g.Status().State == chat.StateReady })
	g.accepts("a", text("1", "a"))
	f.wait("delivered", func() bool { return len(f.bodies()) == 1 })
}

// TestChannelChangesMeanwhile: a request that the channel took before its configuration was
// replaced, and kept after that, is delivered.
func TestChannelChangesMeanwhile(t *testing.T) {
	f := newFleet(t)
	old := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	f.wait("ready", func() bool { return old.Status().State == chat.StateReady })
	log := slog.New(slog.DiscardHandler)
	now := hook.Opener(old.shelf)(chat.AdapterOptions{Channel: old.c, Workers: f, Recorder: f, Log: log, Limits: quick(), Changed: func() {}})
	f.wait("ready", func() bool { return now.Status().State == chat.StateReady })
	defer now.Close()
	old.Close()
	old.accepts("a", text("1", "a"))
	f.wait("delivered", func() bool { return len(f.bodies()) == 1 })
}

// TestSlowBodies: requests whose bodies don't come end after a time, and keep no other from
// being taken meanwhile, large or small.
func TestSlowBodies(t *testing.T) {
	f := newFleet(t)
	g := f.open(t.TempDir(), channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	g.shelf.BodyTime = 2 * time.Second
	path, h := g.Webhook()
	server := httptest.NewServer(h)
	defer server.Close()
	var conns []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"+strings.Repeat("x", 50_000)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	g.accepts("small", text("1", "a"))
	g.accepts("large", text("1", strings.Repeat("a", 200_000)))
	f.wait("delivered", func() bool { return len(f.bodies()) == 2 })
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "400") {
			t.Fatalf("a slow body is answered %q, %v", b, err)
		}
	}
}

// TestBlankSecret: a secret of white space alone is none, for the status as for requests.
func TestBlankSecret(t *testing.T) {
	c := channel(mvm.ChannelHook, "", "*")
	c.Token = []byte(" \n")
	g := newFleet(t).open(t.TempDir(), c, inbox.Limits{})
	g.f.wait("failing", func() bool { return g.Status().State == chat.StateFailing })
	if s := g.Status(); !strings.Contains(s.Detail, "the tenant has no secret s") {
		t.Errorf("status %+v", s)
	}
	if w := g.post("a", text("1", "a")); w.Code != 503 {
		t.Errorf("a request is answered with %d", w.Code)
	}
}

// TestDamageThatIsFoundLater: an inbox that is found damaged while the channel works is said
// to be so in its status.
func TestDamageThatIsFoundLater(t *testing.T) {
	dir := t.TempDir()
	f := newFleet(t)
	f.down = errors.New("no room")
	g := f.open(dir, channel(mvm.ChannelHook, "", "*"), inbox.Limits{})
	g.accepts("a", text("1", "a"))
	path := filepath.Join(dir, "mvm", "inbox.db")
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, st.Size())
	for n := range noise {
		noise[n] = byte(7 * n)
	}
	if err := os.WriteFile(path, noise, 0o600); err != nil { // the file is mapped: it is seen at once
		t.Fatal(err)
	}
	f.wait("taken by a new inbox", func() bool { return g.post("b", text("1", "b")).Code == 200 })
	f.wait("told", func() bool { return strings.Contains(g.Status().Detail, "the inbox was damaged and is kept as "+path) })
	if s := g.Status(); s.State != chat.StateReady {
		t.Errorf("status %+v", s)
	}
}
