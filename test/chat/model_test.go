package chat_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"

	"mvm/test/stubmodel"
)

// keyForm is how tests name messages: chat and number in it.
var keyForm = regexp.MustCompile(`m-[0-9]+-[0-9]{3}`)

func keysIn(s string) []string { return keyForm.FindAllString(s, -1) }

// heard is a model's server that answers what the user has said since the last answer. OpenClaw
// ends what it asks with texts of its own: of a turn that a crash has cut off, that it goes on.
func heard(reply func(last string) string) http.Handler {
	next := &stubmodel.Server{Reply: reply}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
		if err != nil {
			return
		}
		var req map[string]json.RawMessage
		var all []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(body, &req) == nil && json.Unmarshal(req["messages"], &all) == nil {
			text := ""
			for _, m := range all {
				switch said := string(m.Content); {
				case m.Role == "assistant" && strings.Contains(said, "heard:"): // not one that a crash has cut off
					text = ""
				case m.Role == "user" && !strings.Contains(said, "OpenClaw runtime context"):
					text += said + "\n"
				}
			}
			req["messages"], _ = json.Marshal([]map[string]string{{"role": "user", "content": text}})
			body, _ = json.Marshal(req)
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		next.ServeHTTP(w, r)
	})
}
