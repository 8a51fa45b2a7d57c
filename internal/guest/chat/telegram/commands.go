package telegram

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"mvm/internal/guest/chat"
)

// maxLists bounds the lists of commands that are remembered.
const maxLists = 4096

// commandMethods are those of the list of commands that a chat shows as its menu.
var commandMethods = map[string]bool{"setmycommands": true, "deletemycommands": true, "getmycommands": true}

// serveCommands serves requests about the bot's list of commands. Where each chat has a worker
// of its own, the list of a worker is for its chat alone: a bot has one list for all others,
// and one worker's must not be in another's chat. A list that is in force already is not set
// again: each worker sets it when it starts.
func (p *proxy) serveCommands(w http.ResponseWriter, r *http.Request, c caller, body io.Reader) {
	b, err := io.ReadAll(io.LimitReader(body, maxSmall+1))
	if err != nil || len(b) > maxSmall {
		problem(w, http.StatusBadRequest, "Bad Request: the body can't be read")
		return
	}
	params, err := commandParams(r, b)
	if err != nil {
		problem(w, http.StatusBadRequest, "Bad Request: "+chat.Clip(err.Error()))
		return
	}
	if p.scoped() && !aim(params, c.key) {
		nothing := map[bool]string{true: "[]", false: "true"}[c.method == "getmycommands"]
		succeed(w, []byte(`{"ok":true,"result":`+nothing+`}`))
		return
	}
	slot, sum := listOf(params)
	if c.method == "setmycommands" && p.inForce(slot, sum) {
		succeed(w, []byte(`{"ok":true,"result":true}`))
		return
	}
	again, err := json.Marshal(params)
	if err != nil {
		problem(w, http.StatusBadRequest, "Bad Request: the request can't be read")
		return
	}
	to := r.Clone(r.Context())
	to.Method, to.URL.RawQuery = http.MethodPost, ""
	to.Header.Set("Content-Type", "application/json")
	if c.method != "getmycommands" {
		p.setForce(slot, nil) // whatever comes of the request
	}
	if p.forward(w, to, c, bytes.NewReader(again), nil, nil) && c.method == "setmycommands" {
		p.setForce(slot, &sum)
	}
}

func (p *proxy) inForce(slot string, sum [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, ok := p.commands[slot]
	return ok && now == sum
}

// setForce notes the list that is in force; nil: it is not known.
func (p *proxy) setForce(slot string, sum *[sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sum == nil {
		delete(p.commands, slot)
		return
	}
	if len(p.commands) >= maxLists {
		clear(p.commands)
	}
	p.commands[slot] = *sum
}

// aim makes the scope of a request the chat, and reports false where it is for other chats
// only. A worker that is nobody's yet has no chat.
func aim(params map[string]any, chat string) bool {
	scope, _ := params["scope"].(map[string]any)
	kind, _ := scope["type"].(string)
	group := strings.HasPrefix(chat, "-")
	switch {
	case chat == "", kind == "all_private_chats" && group, (kind == "all_group_chats" || kind == "all_chat_administrators") && !group:
		return false
	case strings.HasPrefix(kind, "chat"): // it names its chat, which was checked
		return true
	}
	params["scope"] = map[string]any{"type": "chat", "chat_id": numeric(chat)}
	return true
}

// listOf returns which list of commands a request is about, and a sum of what it would have.
func listOf(params map[string]any) (slot string, sum [sha256.Size]byte) {
	which, _ := json.Marshal([]any{params["scope"], params["language_code"]})
	list, _ := json.Marshal(params["commands"])
	return string(which), sha256.Sum256(list)
}

// commandParams reads a request about commands: as JSON, or as a form, which has lists and
// objects as JSON in text.
func commandParams(r *http.Request, b []byte) (map[string]any, error) {
	params := map[string]any{}
	ofForm := func(v url.Values) {
		for name, list := range v {
			params[name] = list[0]
			if name == "scope" || name == "commands" {
				if value, err := decode([]byte(list[0])); err == nil {
					params[name] = value
				}
			}
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errors.New("its query is not valid")
	}
	ofForm(query)
	if len(b) == 0 {
		return params, nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return nil, errors.New("its Content-Type is not valid")
	case kind == "application/json":
		v, err := decode(b)
		if err != nil {
			return nil, err
		}
		object, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New("it is no JSON object")
		}
		for name, value := range object {
			params[name] = value
		}
	case kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(b))
		if err != nil {
			return nil, errors.New("its form is not valid")
		}
		ofForm(form)
	default:
		return nil, errors.New("send it as JSON")
	}
	return params, nil
}
