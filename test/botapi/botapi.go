// Package botapi is a Telegram Bot API server for tests and the demo. It keeps Telegram's
// rules: an update stays until a getUpdates with a higher offset, two pollers get 409,
// a webhook and getUpdates exclude each other, and a webhook that does not answer 2xx gets
// its update again.
package botapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Update is an update that a test made.
type Update struct {
	ID   int64
	JSON json.RawMessage
}

// Sent is a message that the bot sent.
type Sent struct {
	ID   int64     `json:"id"`
	Chat int64     `json:"chat"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// Call is a request to the server.
type Call struct {
	Method string         `json:"method"`
	Token  string         `json:"token"`
	Params map[string]any `json:"params"`
	At     time.Time      `json:"at"`
}

// Fault is an answer that takes the place of the right one.
type Fault struct {
	Method     string // lower case
	Times      int
	Status     int // 0: the connection is cut
	RetryAfter int
	Text       string
	// After: the request is done first, so that only its answer is lost.
	After bool
	// Hold: the request waits until it is closed, and then succeeds.
	Hold <-chan struct{}
}

// Server is the Bot API of one bot. Its methods may be called concurrently.
type Server struct {
	webhooks *http.Client

	mu          sync.Mutex
	token       string
	nextUpdate  int64
	nextMessage int64
	pending     []Update
	waiters     []chan struct{} // of long polls; closed: another poller came
	news        chan struct{}   // closed when something was added
	webhook     webhook
	pushing     bool
	sent        []Sent
	calls       []Call
	faults      []Fault
	files       map[string][]byte // by path
	down        bool
	done        chan struct{}
	group       sync.WaitGroup
}

type webhook struct {
	URL, Secret string
	LastError   string
	LastAt      int64
}

// New makes a server that takes the token. webhooks delivers to webhooks; nil: the default
// client.
func New(token string, webhooks *http.Client) *Server {
	if webhooks == nil {
		webhooks = &http.Client{Timeout: time.Minute}
	}
	return &Server{token: token, webhooks: webhooks, nextUpdate: 1000, nextMessage: 500, news: make(chan struct{}), files: map[string][]byte{}, done: make(chan struct{})}
}

// Close ends deliveries and long polls.
func (s *Server) Close() {
	close(s.done)
	s.group.Wait()
}

// SetToken revokes the token and makes another valid.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// SetDown has every request fail, or work again.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Fail has the next requests of a method fail.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Heal forgets the faults that are left.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Write has a user write in a chat, and returns the number of the update.
func (s *Server) Write(chat, from int64, text string) int64 {
	kind := "private"
	if chat < 0 {
		kind = "supergroup"
	}
	return s.Add(func(message int64) map[string]any {
		return map[string]any{"message": map[string]any{"message_id": message, "date": time.Now().Unix(), "text": text,
			"from": map[string]any{"id": from, "is_bot": false, "first_name": "U" + strconv.FormatInt(from, 10), "language_code": "en"},
			"chat": map[string]any{"id": chat, "type": kind, "first_name": "U" + strconv.FormatInt(chat, 10)}}}
	})
}

// Add adds an update that make makes, with the number of a message.
func (s *Server) Add(make func(message int64) map[string]any) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextUpdate
	u := make(s.nextMessage)
	s.nextUpdate++
	s.nextMessage++
	u["update_id"] = id
	b, err := json.Marshal(u)
	if err != nil {
		panic(err)
	}
	s.pending = append(s.pending, Update{id, b})
	s.wake()
	return id
}

// AddFile has a file downloadable, and returns its id.
func (s *Server) AddFile(path string, data []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = data
	return "F-" + path
}

// wake tells who waits that something was added. s.mu is held.
func (s *Server) wake() {
	close(s.news)
	s.news = make(chan struct{})
	if s.webhook.URL != "" && !s.pushing {
		s.pushing = true
		s.group.Go(s.push)
	}
}

// Pending are the updates that were not confirmed, oldest first.
func (s *Server) Pending() []Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pending)
}

// Sent are the messages that the bot sent, with edits applied.
func (s *Server) Sent() []Sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

// Calls are the requests, of one method where it is named.
func (s *Server) Calls(method string) (out []Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if method == "" || strings.EqualFold(c.Method, method) {
			out = append(out, c)
		}
	}
	return out
}

// WebhookURL is the address that the bot has set; empty: none.
func (s *Server) WebhookURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.webhook.URL
}

// SetWebhook is as if another program had set it.
func (s *Server) SetWebhook(url, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhook = webhook{URL: url, Secret: secret}
	s.wake()
}

// maxBody bounds a request.
const maxBody = 80 << 20

// ServeHTTP serves the Bot API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down, token := s.down, s.token
	s.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	rest, isFile := strings.CutPrefix(r.URL.Path, "/file")
	rest, ok := strings.CutPrefix(rest, "/bot")
	got, name, found := strings.Cut(rest, "/")
	if !ok || !found {
		refuse(w, 404, "Not Found", 0)
		return
	}
	if isFile {
		s.file(w, got == token, name)
		return
	}
	params, err := read(r)
	if err != nil {
		refuse(w, 400, "Bad Request: "+err.Error(), 0)
		return
	}
	s.mu.Lock()
	s.calls = append(s.calls, Call{Method: name, Token: got, Params: params, At: time.Now()})
	s.mu.Unlock()
	if got != token {
		refuse(w, 401, "Unauthorized", 0)
		return
	}
	name = strings.ToLower(name)
	fault := s.fault(name)
	if fault != nil && fault.Hold != nil {
		<-fault.Hold
		fault = nil
	}
	if fault != nil && !fault.After {
		fault.answer(w)
		return
	}
	result, code, text := s.method(r.Context(), name, params)
	switch {
	case fault != nil:
		fault.answer(w)
	case code != 0:
		refuse(w, code, text, 0)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "result": result})
	}
}

func (f *Fault) answer(w http.ResponseWriter) {
	if f.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	refuse(w, f.Status, f.Text, f.RetryAfter)
}

func refuse(w http.ResponseWriter, code int, text string, retryAfter int) {
	v := map[string]any{"ok": false, "error_code": code, "description": text}
	if retryAfter > 0 {
		v["parameters"] = map[string]any{"retry_after": retryAfter}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (s *Server) fault(method string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.faults {
		if f := &s.faults[n]; f.Times > 0 && f.Method == method {
			f.Times--
			now := *f
			return &now
		}
	}
	return nil
}

func (s *Server) file(w http.ResponseWriter, ok bool, path string) {
	s.mu.Lock()
	data, found := s.files[path]
	s.mu.Unlock()
	switch {
	case !ok:
		refuse(w, 401, "Unauthorized", 0)
	case !found:
		refuse(w, 404, "Not Found", 0)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(data)
	}
}

// method does a request; code is that of an error.
func (s *Server) method(ctx context.Context, name string, p map[string]any) (result any, code int, text string) {
	switch name {
	case "getupdates":
		return s.getUpdates(ctx, p)
	case "sendmessage", "sendphoto", "senddocument":
		return s.send(p), 0, ""
	case "editmessagetext":
		return s.edit(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case "getme":
		id, _, _ := strings.Cut(s.token, ":")
		n, _ := strconv.ParseInt(id, 10, 64)
		return map[string]any{"id": n, "is_bot": true, "first_name": "Stand", "username": "standin_bot", "can_join_groups": true,
			"can_read_all_group_messages": false, "supports_inline_queries": false}, 0, ""
	case "setwebhook":
		s.webhook = webhook{URL: str(p["url"]), Secret: str(p["secret_token"])}
		s.wake()
	case "deletewebhook":
		s.webhook = webhook{}
		if p["drop_pending_updates"] == true {
			s.pending = nil
		}
	case "getwebhookinfo":
		return map[string]any{"url": s.webhook.URL, "has_custom_certificate": false, "pending_update_count": len(s.pending),
			"last_error_date": s.webhook.LastAt, "last_error_message": s.webhook.LastError}, 0, ""
	case "getfile":
		path := strings.TrimPrefix(str(p["file_id"]), "F-")
		if _, ok := s.files[path]; !ok {
			return nil, 400, "Bad Request: invalid file_id"
		}
		return map[string]any{"file_id": p["file_id"], "file_unique_id": "u", "file_size": len(s.files[path]), "file_path": path}, 0, ""
	case "getmycommands":
		return []any{}, 0, ""
	case "getchat":
		return map[string]any{"id": num(p["chat_id"]), "type": "private", "first_name": "U"}, 0, ""
	case "getchatmember":
		return map[string]any{"status": "member", "user": map[string]any{"id": num(p["user_id"]), "is_bot": false, "first_name": "U"}}, 0, ""
	}
	return true, 0, "" // sendChatAction, setMyCommands, setMessageReaction, …
}

// getUpdates forgets what is before the offset, and waits where nothing is left.
func (s *Server) getUpdates(ctx context.Context, p map[string]any) (any, int, string) {
	offset, limit, timeout := num(p["offset"]), num(p["limit"]), num(p["timeout"])
	if limit <= 0 || limit > 100 {
		limit = 100
	}
	timer := time.NewTimer(time.Duration(timeout) * time.Second)
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset > 0 {
		s.pending = slices.DeleteFunc(s.pending, func(u Update) bool { return u.ID < offset })
	}
	for _, w := range s.waiters {
		close(w)
	}
	mine := make(chan struct{})
	s.waiters = []chan struct{}{mine}
	defer func() { s.waiters = slices.DeleteFunc(s.waiters, func(w chan struct{}) bool { return w == mine }) }()
	for {
		if s.webhook.URL != "" {
			return nil, 409, "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
		}
		if len(s.pending) > 0 || timeout <= 0 {
			out := []json.RawMessage{}
			for _, u := range s.pending[:min(len(s.pending), int(limit))] {
				out = append(out, u.JSON)
			}
			return out, 0, ""
		}
		news := s.news
		s.mu.Unlock()
		conflict := false
		select {
		case <-news:
		case <-mine:
			conflict = true
		case <-timer.C:
			timeout = 0
		case <-ctx.Done():
			timeout = 0
		case <-s.done:
			timeout = 0
		}
		s.mu.Lock()
		if conflict {
			return nil, 409, "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"
		}
	}
}

func (s *Server) send(p map[string]any) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Sent{ID: s.nextMessage, Chat: num(p["chat_id"]), Text: str(p["text"]) + str(p["caption"]), At: time.Now()}
	s.nextMessage++
	s.sent = append(s.sent, m)
	return s.messageOf(m)
}

func (s *Server) messageOf(m Sent) any {
	kind := "private"
	if m.Chat < 0 {
		kind = "supergroup"
	}
	return map[string]any{"message_id": m.ID, "date": m.At.Unix(), "text": m.Text, "chat": map[string]any{"id": m.Chat, "type": kind},
		"from": map[string]any{"id": 1, "is_bot": true, "first_name": "Stand"}}
}

func (s *Server) edit(p map[string]any) (any, int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.IndexFunc(s.sent, func(m Sent) bool { return m.ID == num(p["message_id"]) && m.Chat == num(p["chat_id"]) })
	if n < 0 {
		return nil, 400, "Bad Request: message to edit not found"
	}
	s.sent[n].Text = str(p["text"])
	return s.messageOf(s.sent[n]), 0, ""
}

// pushPause is between two tries of a webhook.
const pushPause = 200 * time.Millisecond

// push delivers to the webhook, the oldest update first, until none is left.
func (s *Server) push() {
	for {
		s.mu.Lock()
		if s.webhook.URL == "" || len(s.pending) == 0 {
			s.pushing = false
			s.mu.Unlock()
			return
		}
		u, to := s.pending[0], s.webhook
		s.mu.Unlock()
		err := s.deliver(to, u)
		s.mu.Lock()
		if err == nil {
			s.pending = slices.DeleteFunc(s.pending, func(p Update) bool { return p.ID == u.ID })
		} else {
			s.webhook.LastError, s.webhook.LastAt = err.Error(), time.Now().Unix()
		}
		s.mu.Unlock()
		select {
		case <-s.done:
			return
		default:
		}
		if err != nil {
			select {
			case <-time.After(pushPause):
			case <-s.done:
				return
			}
		}
	}
}

func (s *Server) deliver(to webhook, u Update) error {
	req, err := http.NewRequest(http.MethodPost, to.URL, bytes.NewReader(u.JSON))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Telegram-Bot-Api-Secret-Token", to.Secret)
	resp, err := s.webhooks.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("wrong response from the webhook: %s", resp.Status)
	}
	return nil
}

// read takes the parameters of a request in every form that the Bot API has them.
func read(r *http.Request) (map[string]any, error) {
	p := map[string]any{}
	take := func(v url.Values) {
		for k, list := range v {
			p[k] = list[0]
		}
	}
	take(r.URL.Query())
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil || len(b) == 0 {
		return p, err
	}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/json":
		return p, firstWins(b, p)
	case "multipart/form-data":
		f, err := multipart.NewReader(bytes.NewReader(b), params["boundary"]).ReadForm(maxBody)
		if err != nil {
			return nil, err
		}
		take(f.Value)
		for k, list := range f.File {
			p[k] = fmt.Sprintf("<file %s %d bytes>", list[0].Filename, list[0].Size)
		}
		return p, nil
	}
	v, err := url.ParseQuery(string(b))
	take(v)
	return p, err
}

func str(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func num(v any) int64 {
	n, _ := strconv.ParseInt(str(v), 10, 64)
	return n
}

// Renumber has the next update get this number, which may be lower than those before.
func (s *Server) Renumber(next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextUpdate = next
}

// Continue has the next update and message get these numbers, as after another server of the
// bot: OpenClaw drops what has a number that it knows.
func (s *Server) Continue(update, message int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextUpdate, s.nextMessage = update, message
}

// firstWins decodes an object. Of a name that is given twice the first counts, as in Telegram.
func firstWins(b []byte, p map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(errors.New("can't parse JSON object"), err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return err
		}
		if _, there := p[str(name)]; !there {
			p[str(name)] = v
		}
	}
	return nil
}
