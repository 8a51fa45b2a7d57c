// Package stubmodel is a small stand-in for an OpenAI-compatible model server. It
// answers every chat with a text that tells which message it saw, so that tests and
// the demo need no key and no network.
package stubmodel

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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
	if s.Command != nil && len(req.Messages) > 0 && req.Messages[len(req.Messages)-1].Role == "user" {
		if cmd := s.Command(lastOfUser(req.Messages)); cmd != "" {
			callExec(w, req, cmd)
			return
		}
	}
	text := "stub model heard: " + lastOfUser(req.Messages)
	if s.Reply != nil {
		text = s.Reply(lastOfUser(req.Messages))
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

// callExec answers with a call of the exec tool.
func callExec(w http.ResponseWriter, req request, cmd string) {
	args, err := json.Marshal(map[string]any{"command": cmd, "background": true})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	call := map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{"index": 0, "id": "call_1", "type": "function",
		"function": map[string]any{"name": "exec", "arguments": string(args)}}}}
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

// lastOfUser is the text of the newest message of the user.
func lastOfUser(all []message) string {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Role == "user" {
			return textOf(all[i].Content)
		}
	}
	return ""
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
