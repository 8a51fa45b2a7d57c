// Package stubmodel is a small stand-in for an OpenAI-compatible model server. It
// answers every chat with a text that tells which message it saw, so that tests and
// the demo need no key and no network.
package stubmodel

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 8 << 20

// Server is the stub's handler. It may be used from many goroutines.
type Server struct {
	// Reply makes the answer from the last message of the user; nil: "stub model heard: <message>".
	Reply func(last string) string
	// Command, where it returns one for a message of the user, has the assistant run it
	// in the background with the exec tool, and answers once the tool has.
	Command func(last string) string
	// Reminders, where it is true, has "remind me in 40 seconds to drink water" set a reminder
	// with the assistant's tool for that.
	Reminders bool
	// Delay is waited before the answer.
	Delay time.Duration

	asked atomic.Int64
}

// Asked counts the chats that were answered.
func (s *Server) Asked() int64 { return s.asked.Load() }

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type request struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Messages []message `json:"messages"`
}

// ServeHTTP answers /v1/chat/completions and /v1/models.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/models"):
		writeJSON(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": "m", "object": "model"}}})
	case strings.HasSuffix(r.URL.Path, "/chat/completions") && r.Method == http.MethodPost:
		s.chat(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var req request
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&req); err != nil {
		http.Error(w, "bad request: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.asked.Add(1)
	time.Sleep(s.Delay)
	if call, ok := s.toolFor(req.Messages); ok {
		callTool(w, req, call)
		return
	}
	last, _ := lastOfUser(req.Messages)
	text := "stub model heard: " + last
	if s.Reply != nil {
		text = s.Reply(last)
	}
	if req.Stream {
		stream(w, req.Model, text)
		return
	}
	writeJSON(w, completion(req.Model, "chat.completion", map[string]any{
		"message": map[string]any{"role": "assistant", "content": text}, "finish_reason": "stop", "index": 0}))
}

func completion(model, object string, choice map[string]any) map[string]any {
	return map[string]any{"id": "chatcmpl-stub", "object": object, "created": time.Now().Unix(), "model": model,
		"choices": []any{choice}, "usage": map[string]int{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
}

// tool is a call of one of the assistant's tools.
type tool struct {
	name string
	args map[string]any
}

// toolFor is what the newest message of the user has the assistant do, unless it has done so.
func (s *Server) toolFor(all []message) (tool, bool) {
	last, n := lastOfUser(all)
	if n < 0 || slices.ContainsFunc(all[n:], func(m message) bool { return m.Role != "user" }) {
		return tool{}, false
	}
	if s.Command != nil {
		if cmd := s.Command(last); cmd != "" {
			return tool{"exec", map[string]any{"command": cmd, "background": true}}, true
		}
	}
	if found := reminder.FindStringSubmatch(last); s.Reminders && found != nil {
		secs, err := strconv.Atoi(found[1])
		at := time.Now().Add(time.Duration(secs) * time.Second).UTC().Format(time.RFC3339)
		return tool{"automations", map[string]any{"action": "add", "job": map[string]any{"name": found[2],
			"schedule": map[string]any{"kind": "at", "at": at}, "payload": map[string]any{"kind": "agentTurn", "message": "it is time to " + found[2]}}}}, err == nil
	}
	return tool{}, false
}

// reminder is how a user asks for one, and reminded what the assistant is told when it is due.
var (
	reminder = regexp.MustCompile(`remind me in ([0-9]{1,6}) seconds to ([a-z ]{1,60})`)
	reminded = regexp.MustCompile(`(?m)^it is time to [a-z ]+$`)
)

// callTool answers with a call of a tool.
func callTool(w http.ResponseWriter, req request, t tool) {
	args, err := json.Marshal(t.args)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	call := map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{"index": 0, "id": "call_1", "type": "function",
		"function": map[string]any{"name": t.name, "arguments": string(args)}}}}
	if req.Stream {
		send(w, req.Model, "tool_calls", call)
		return
	}
	writeJSON(w, completion(req.Model, "chat.completion", map[string]any{"message": call, "finish_reason": "tool_calls", "index": 0}))
}

// stream sends the answer in two pieces.
func stream(w http.ResponseWriter, model, text string) {
	half := len(text) / 2
	send(w, model, "stop", map[string]any{"role": "assistant", "content": text[:half]}, map[string]any{"content": text[half:]})
}

// send sends pieces of an answer as server-sent events, and why it ended.
func send(w http.ResponseWriter, model, finish string, deltas ...map[string]any) {
	w.Header().Set("Content-Type", "text/event-stream")
	piece := func(delta map[string]any, finish any) {
		b, err := json.Marshal(completion(model, "chat.completion.chunk", map[string]any{"index": 0, "delta": delta, "finish_reason": finish}))
		if err == nil {
			fmt.Fprintf(w, "data: %s\n\n", b)
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	for _, d := range deltas {
		piece(d, nil)
	}
	piece(map[string]any{}, finish)
	fmt.Fprint(w, "data: [DONE]\n\n")
}

// lastOfUser is the text of the newest message of the user, and which one it is; -1: none. What
// OpenClaw itself says of a chat, as a user, is no message, and no part of one.
func lastOfUser(all []message) (string, int) {
	for i := len(all) - 1; i >= 0; i-- {
		text := textOf(all[i].Content)
		if all[i].Role != "user" || strings.HasPrefix(text, "OpenClaw runtime context") {
			continue
		}
		if n := strings.LastIndex(text, "```\n\n"); n >= 0 && strings.Contains(text, "\u27e6openclaw:ctx\u27e7") {
			text = text[n+len("```\n\n"):]
		}
		if due := reminded.FindString(text); strings.HasPrefix(text, "[cron:") && due != "" {
			text = due
		}
		return text, i
	}
	return "", -1
}

// textOf reads a content that is a string or a list of parts.
func textOf(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	var out []string
	for _, p := range parts {
		out = append(out, p.Text)
	}
	return strings.Join(out, "\n")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client is gone
	}
}
