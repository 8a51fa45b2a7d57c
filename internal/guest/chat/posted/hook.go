package posted

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"mvm/internal/guest/requestkey"
	"mvm/internal/guestproto"
)

// readStandard reads a request of Standard Webhooks, whose id is in a header.
func readStandard(c guestproto.Channel, r Request) (Post, error) {
	p, err := readHook(c, r)
	if err == nil && c.IDFrom == "" {
		p.Messages[0].ID = r.Header.Get(hookID)
	}
	return p, err
}

// readHook reads a request that is one message.
func readHook(c guestproto.Channel, r Request) (p Post, err error) {
	if !json.Valid(r.Body) {
		return p, errors.New("its body is no JSON")
	}
	m := Message{Body: r.Body}
	for _, part := range []struct {
		from string
		to   *string
	}{{c.IDFrom, &m.ID}, {c.ChatFrom, &m.Chat}, {c.SenderFrom, &m.Sender}} {
		if part.from == "" {
			continue
		}
		if *part.to, err = pick(part.from, r); err != nil {
			return p, err
		}
	}
	p.Messages = []Message{m}
	return p, nil
}

// pick returns what a source names: "header:<name>" or "json:<pointer>".
func pick(from string, r Request) (string, error) {
	text, err := requestkey.Of(from, "", &http.Request{Header: r.Header, URL: &url.URL{}}, r.Body)
	if err == nil && text == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", fmt.Errorf("its %s: %w", from, err)
	}
	return text, nil
}
