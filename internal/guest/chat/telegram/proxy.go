package telegram

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm/internal/guest/chat"

	"mvm"
)

// Bounds of workers' requests to Telegram.
const (
	maxRequest     = 64 << 20        // bytes of a body that is passed on
	maxSmall       = 1 << 20         // of one that is looked at; a form with files: maxRequest
	proxyConns     = 64              // requests at once
	proxyPerWorker = 8               // of them from one worker
	proxyForms     = 2               // forms with files that are looked at, at once
	proxyTime      = 5 * time.Minute // for one
	meFor          = 10 * time.Minute
)

// local are the methods that the gateway answers itself: how updates arrive is its
// business, and a worker must not end the bot's session.
var local = map[string]string{
	"setwebhook": "true", "deletewebhook": "true", "logout": "true", "close": "true", "getupdates": "[]",
	"getwebhookinfo": `{"url":"https://mvm.invalid/","has_custom_certificate":false,"pending_update_count":0}`,
}

// proxy passes workers' requests on to Telegram, with the real token in place of theirs.
type proxy struct {
	b     *Bot
	slots chan struct{}
	forms chan struct{}

	mu       sync.Mutex
	byWorker map[string]int
	me       []byte // the last answer to getMe
	meAt     time.Time
	commands map[string][sha256.Size]byte // lists of commands that are in force, by scope and language
}

func (p *proxy) init(b *Bot) {
	*p = proxy{b: b, slots: make(chan struct{}, proxyConns), forms: make(chan struct{}, proxyForms), byWorker: map[string]int{},
		commands: map[string][sha256.Size]byte{}}
}

var (
	tokenPath  = regexp.MustCompile(`^/(file/)?bot([^/]{1,512})/(.*)$`)
	methodName = regexp.MustCompile(`^[A-Za-z]{1,64}$`)
	fileName   = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,7}$`)
)

// caller is a worker that asks.
type caller struct {
	instance, key string
	method        string // lower case; empty: a file
	path          string // as it is sent on, behind the token
	file          bool
}

// Proxy implements chat.Adapter.
func (b *Bot) Proxy(w http.ResponseWriter, r *http.Request) bool {
	m := tokenPath.FindStringSubmatch(r.URL.Path)
	if m == nil {
		return false
	}
	c := caller{file: m[1] != "", path: m[3]}
	var ok bool
	if c.instance, c.key, ok = b.channel.ReadPlaceholder(m[2]); !ok {
		return false
	}
	if c.file && !fileName.MatchString(c.path) || !c.file && !methodName.MatchString(c.path) {
		problem(w, http.StatusNotFound, "Not Found")
		return true
	}
	if !c.file {
		c.method = strings.ToLower(c.path)
	}
	b.proxy.serve(w, r, c)
	return true
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, c caller) {
	if result, ok := local[c.method]; ok && !c.file {
		succeed(w, []byte(`{"ok":true,"result":`+result+`}`))
		return
	}
	if !p.enter(c.instance) {
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusTooManyRequests, "Too Many Requests: retry after 1")
		return
	}
	defer p.leave(c.instance)
	ctx, cancel := context.WithTimeout(r.Context(), proxyTime)
	defer cancel()
	r = r.WithContext(ctx)
	body, chats, why := p.check(w, r, c)
	switch {
	case why != "":
		problem(w, http.StatusForbidden, "Forbidden: "+why)
	case c.method == "getme":
		p.serveMe(w, r, c)
	case commandMethods[c.method]:
		p.serveCommands(w, r, c, body)
	case sends(c.method):
		p.serveSend(w, r, c, body, chats)
	default:
		_ = p.forward(w, r, c, body, nil, nil)
	}
}

func (p *proxy) enter(instance string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byWorker[instance] >= proxyPerWorker {
		return false
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return false
	}
	p.byWorker[instance]++
	return true
}

func (p *proxy) leave(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byWorker[instance]--; p.byWorker[instance] == 0 {
		delete(p.byWorker, instance)
	}
	<-p.slots
}

// serveMe answers getMe, which every worker asks when it wakes, from memory.
func (p *proxy) serveMe(w http.ResponseWriter, r *http.Request, c caller) {
	p.mu.Lock()
	me := p.me
	if time.Since(p.meAt) > meFor {
		me = nil
	}
	p.mu.Unlock()
	if me != nil {
		succeed(w, me)
		return
	}
	var got bytes.Buffer
	if p.forward(w, r, c, nil, &got, nil) {
		p.mu.Lock()
		p.me, p.meAt = got.Bytes(), time.Now()
		p.mu.Unlock()
	}
}

// forward passes the request on and the answer back, and reports that Telegram answered
// 200; ok is called before the answer is passed back, which may fail. keep gets a copy of the
// answer. Both may be nil.
func (p *proxy) forward(w http.ResponseWriter, r *http.Request, c caller, body io.Reader, keep *bytes.Buffer, ok func()) bool {
	api := p.b.api
	url := api.url("/bot" + api.token + "/" + c.path)
	if c.file {
		url = api.url("/file/bot" + api.token + "/" + c.path)
	}
	if r.URL.RawQuery != "" {
		url += "?" + r.URL.RawQuery
	}
	method := r.Method
	if method != http.MethodGet {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(r.Context(), method, url, body)
	if err != nil {
		problem(w, http.StatusBadRequest, "Bad Request: the address is not valid")
		return false
	}
	if t := r.Header.Get("Content-Type"); t != "" && body != nil {
		req.Header.Set("Content-Type", t)
		if _, known := body.(*bytes.Reader); !known && r.ContentLength > 0 { // of a reader of bytes it is known
			req.ContentLength = r.ContentLength
		}
	}
	resp, err := api.http.Do(req)
	if err != nil {
		p.b.opt.Log.Info("worker's request to Telegram failed", "instance", c.instance, "method", c.method, "error", chat.WithoutURL(err))
		problem(w, http.StatusBadGateway, "Bad Gateway: Telegram can't be reached")
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	for _, name := range []string{"Content-Type", "Content-Length", "Retry-After"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	if resp.StatusCode == http.StatusOK && ok != nil {
		ok()
	}
	w.WriteHeader(resp.StatusCode)
	var to io.Writer = w
	if keep != nil {
		to = io.MultiWriter(w, keep)
	}
	_, err = io.Copy(to, resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the worker sees that the answer is not whole
	}
	return resp.StatusCode == http.StatusOK
}

func succeed(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// problem answers as the Bot API does.
func problem(w http.ResponseWriter, status int, text string) {
	b, _ := json.Marshal(map[string]any{"ok": false, "error_code": status, "description": text})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// common are the methods without a chat that a worker of one chat may use.
var common = []string{"getme", "getfile", "answercallbackquery", "answerinlinequery", "getmycommands", "setmycommands", "deletemycommands",
	"getmyname", "getmydescription", "getmyshortdescription", "getstickerset", "getcustomemojistickers"}

// check bounds the request and, where each chat has a worker of its own, refuses what is not
// for the worker's own chat. chats are those that it names, where they were looked at.
func (p *proxy) check(w http.ResponseWriter, r *http.Request, c caller) (body io.Reader, chats []string, why string) {
	limited := http.MaxBytesReader(w, r.Body, maxRequest)
	if !p.scoped() || c.file {
		if r.Method == http.MethodGet || r.ContentLength == 0 {
			return http.NoBody, nil, ""
		}
		return limited, nil, ""
	}
	from := p.b.channel.To.Selector.From
	chats, body, err := p.chats(r, limited)
	if err != nil {
		return nil, nil, "the request can't be read: " + chat.Clip(err.Error())
	}
	if len(chats) == 0 && !slices.Contains(common, c.method) {
		return nil, nil, "the worker of one chat may use this method with its own chat only"
	}
	for _, id := range chats {
		group := from == mvm.KeyFromSender && strings.HasPrefix(id, "-") && slices.Contains(p.b.channel.Allow, id)
		if id != c.key && !group || c.key == "" { // a worker that is nobody's yet has no chat
			return nil, nil, "the chat is not that of the worker"
		}
	}
	return body, chats, ""
}

// scoped reports that each chat or sender has a worker of its own.
func (p *proxy) scoped() bool {
	from := p.b.channel.To.Selector.From
	return from == mvm.KeyFromChat || from == mvm.KeyFromSender
}
