package discordapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) rest(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v10")
	fault := None
	if ok && s.Hook != nil {
		fault = s.Hook(r.Method, path)
	}
	s.mu.Lock()
	s.counts.Requests++
	token := s.opt.Token
	s.mu.Unlock()
	switch {
	case !ok:
		refuse(w, 404, "404: Not Found")
		return
	case !strings.HasPrefix(r.UserAgent(), "DiscordBot ("):
		refuse(w, 403, "a bot names itself")
		return
	case r.Header.Get("Authorization") != "Bot "+token:
		refuse(w, 401, "401: Unauthorized")
		return
	}
	switch fault {
	case Refuse:
		refuse(w, 503, "")
		return
	case TooMany:
		parts := strings.Split(path+"//", "/")
		s.limit(w, 30*time.Millisecond, r.Method+" "+parts[2])
		return
	case Lose:
		s.route(discard{http.Header{}}, r, path)
		panic(http.ErrAbortHandler)
	}
	s.route(w, r, path)
	if fault == Disconnect {
		s.Drop()
	}
}

// discard loses an answer.
type discard struct{ head http.Header }

func (d discard) Header() http.Header       { return d.head }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func (s *Server) route(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	s.mu.Lock()
	_, known := s.servers[parts[min(1, len(parts)-1)]]
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && path == "/gateway/bot":
		answer(w, 200, map[string]any{"url": "ws://" + r.Host + "/gateway", "shards": 1,
			"session_start_limit": map[string]any{"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}})
	case r.Method == http.MethodGet && path == "/users/@me":
		answer(w, 200, map[string]any{"id": BotID, "username": "helper", "bot": true})
	case parts[0] != "channels" || !known:
		refuse(w, 404, "Unknown Channel")
	case r.Method == http.MethodGet && len(parts) == 2:
		s.channel(w, parts[1])
	case r.Method == http.MethodGet && len(parts) == 3 && parts[2] == "messages":
		s.list(w, r, parts[1])
	case r.Method == http.MethodPost && len(parts) == 3 && parts[2] == "typing":
		s.mu.Lock()
		s.typing[parts[1]]++
		s.mu.Unlock()
		w.WriteHeader(204)
	case r.Method == http.MethodPost && len(parts) == 3 && parts[2] == "messages":
		s.send(w, r, parts[1])
	default:
		refuse(w, 405, "405: Method Not Allowed")
	}
}

func (s *Server) channel(w http.ResponseWriter, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := map[string]any{"id": id, "type": 1, "last_message_id": nil}
	if server := s.servers[id]; server != "" {
		d["type"], d["guild_id"] = 0, server
	}
	if all := s.messages[id]; len(all) > 0 {
		d["last_message_id"] = all[len(all)-1].ID
	}
	answer(w, 200, d)
}

// list gives the messages that follow on one, the newest first.
func (s *Server) list(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	most, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || most < 1 || most > 100 {
		refuse(w, 400, "Invalid Form Body")
		return
	}
	since := r.URL.Query().Get("after")
	out := []any{}
	for _, m := range s.messages[id] {
		if m.ID > since && len(out) < most { // all ids have the same length
			out = append(out, s.form(m))
		}
	}
	slices.Reverse(out)
	answer(w, 200, out)
}

// send takes a message of the bot.
func (s *Server) send(w http.ResponseWriter, r *http.Request, id string) {
	var p struct {
		Content string `json:"content"`
		Nonce   string `json:"nonce"`
		Enforce bool   `json:"enforce_nonce"`
		Allowed *struct {
			Parse   []string `json:"parse"`
			Replied bool     `json:"replied_user"`
		} `json:"allowed_mentions"`
		Reference *struct {
			ID   string `json:"message_id"`
			Fail *bool  `json:"fail_if_not_exists"`
		} `json:"message_reference"`
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || json.Unmarshal(b, &p) != nil {
		refuse(w, 400, "The request body contains invalid JSON.")
		return
	}
	if n := units(p.Content); n == 0 || n > 2000 || len(p.Nonce) > 25 {
		refuse(w, 400, "Invalid Form Body")
		return
	}
	if !s.admit(w, "POST "+id) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.nonces[id+p.Nonce]; p.Enforce && p.Nonce != "" && old != nil {
		answer(w, 200, s.form(old))
		return
	}
	m := &Message{Channel: id, Author: BotID, Text: p.Content, Nonce: p.Nonce, Pings: p.Allowed == nil || len(p.Allowed.Parse) > 0 || p.Allowed.Replied}
	if p.Reference != nil {
		m.ReplyTo = p.Reference.ID
		if fail := p.Reference.Fail; (fail == nil || *fail) && !slices.ContainsFunc(s.messages[id], func(x *Message) bool { return x.ID == m.ReplyTo }) {
			refuse(w, 400, "Unknown message")
			return
		}
	}
	s.add(m)
	if p.Nonce != "" {
		s.nonces[id+p.Nonce] = m
	}
	answer(w, 200, s.form(m))
}

// admit keeps to the limit of a route.
func (s *Server) admit(w http.ResponseWriter, route string) bool {
	s.mu.Lock()
	b, now := s.bucket(route), time.Now()
	if now.Before(b.blocked) {
		s.counts.Hammered++
	}
	if now.Sub(b.began) > s.opt.Window {
		b.began, b.n = now, 0
	}
	b.n++
	left, wait := s.opt.Limit-b.n, s.opt.Window-now.Sub(b.began)
	s.mu.Unlock()
	if left < 0 {
		s.limit(w, wait, route)
		return false
	}
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(left))
	w.Header().Set("X-RateLimit-Reset-After", fmt.Sprintf("%.3f", wait.Seconds()))
	return true
}

// bucket is that of a route. s.mu is held.
func (s *Server) bucket(route string) *bucket {
	b := s.buckets[route]
	if b == nil {
		b = &bucket{}
		s.buckets[route] = b
	}
	return b
}

func (s *Server) limit(w http.ResponseWriter, wait time.Duration, route string) {
	s.mu.Lock()
	s.counts.Limited++
	if b := s.bucket(route); wait > 0 {
		b.blocked = time.Now().Add(wait - 2*time.Millisecond) // clocks are not that exact
	}
	s.mu.Unlock()
	w.Header().Set("Retry-After", strconv.FormatFloat(wait.Seconds(), 'f', 3, 64))
	answer(w, 429, map[string]any{"message": "You are being rate limited.", "retry_after": wait.Seconds(), "global": false})
}

func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]any{"message": text, "code": 0})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(v)) // the client may be gone
}
