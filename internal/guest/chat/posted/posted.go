// Package posted reads what platforms post to a channel: whether a request is the
// platform's, by the platform's rule, and which messages are in it. It also signs messages
// to workers by the same rule, so that a program that was written for the platform takes
// them. It is pure.
//
//	slack     X-Slack-Signature: v0=HEX of HMAC-SHA256 over "v0:TIME:BODY", where TIME is
//	          X-Slack-Request-Timestamp and at most 5 minutes off
//	whatsapp  X-Hub-Signature-256: sha256=HEX of HMAC-SHA256 over BODY, with the app's secret
//	line      X-Line-Signature: BASE64 of HMAC-SHA256 over BODY, with the channel's secret
//	webhook   by the channel's auth:
//	  standard  as standardwebhooks.com has it: webhook-signature has "v1,BASE64" of
//	            HMAC-SHA256 over "ID.TIME.BODY", where ID is webhook-id and TIME is
//	            webhook-timestamp, at most 5 minutes off
//	  hub       as whatsapp
//	  bearer    Authorization: Bearer SECRET
package posted

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Request is a request whose body was read, within bounds.
type Request struct {
	Method string
	Query  url.Values
	Header http.Header
	Body   []byte
}

// Message is one message of a request. Body is a request's body with this message alone.
type Message struct {
	ID     string // empty: the sender gave none
	Chat   string
	Sender string
	Group  bool // other people are in the chat, too
	Body   []byte
	Urgent bool // it does not wait for the worker to become idle
}

// Post is what is in a request.
type Post struct {
	Answer   string // what the platform wants to read; it has no messages then
	Messages []Message
}

// Bounds of what is read.
const (
	MaxMessages = 1000 // of one request
	maxID       = 256  // bytes of an id, a chat or a sender
	maxAnswer   = 1024
	maxSkew     = 5 * time.Minute
)

// Content is the content type of every message.
const Content = "application/json"

// Read checks the request and reads it. KindPolicy: it is not the platform's. KindInvalid:
// it is, and can't be read. KindState: the channel lacks a secret.
func Read(c guestproto.Channel, r Request, now time.Time) (Post, error) {
	secret, err := c.Bare()
	if err != nil {
		return Post{}, err
	}
	if c.Kind == mvm.ChannelWhatsApp && r.Method == http.MethodGet {
		return verification(c, r)
	}
	if r.Method != http.MethodPost {
		return Post{}, mvm.Errorf(mvm.KindInvalid, "method %.16q is not POST", r.Method)
	}
	rule, ok := ruleOf(c)
	if !ok {
		return Post{}, mvm.Errorf(mvm.KindInternal, "no rule for kind %s", c.Kind)
	}
	if err := rule.check(secret, r, now); err != nil {
		return Post{}, mvm.Errorf(mvm.KindPolicy, "not from the platform: %w", err)
	}
	p, err := rule.read(c, r)
	if err != nil {
		return Post{}, mvm.Errorf(mvm.KindInvalid, "read a message: %w", err)
	}
	return checked(p)
}

// checked returns the post where all of it is within bounds.
func checked(p Post) (Post, error) {
	if len(p.Messages) > MaxMessages {
		return Post{}, mvm.Errorf(mvm.KindInvalid, "read messages: one request has %d, more than %d", len(p.Messages), MaxMessages)
	}
	if !printable(p.Answer, maxAnswer) {
		return Post{}, mvm.Errorf(mvm.KindInvalid, "the challenge is longer than %d bytes or not printable", maxAnswer)
	}
	for _, m := range p.Messages {
		for what, s := range map[string]string{"id": m.ID, "chat": m.Chat, "sender": m.Sender} {
			if !printable(s, maxID) {
				return Post{}, mvm.Errorf(mvm.KindInvalid, "read a message: its %s is longer than %d bytes or not printable ASCII", what, maxID)
			}
		}
	}
	return p, nil
}

// printable: the text becomes a key, a header and a line on a terminal.
func printable(s string, most int) bool {
	return len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// Sign returns the head by which a worker sees that the message is the gateway's, by the
// platform's rule with the worker's own secret.
func Sign(c guestproto.Channel, secret, id string, body []byte, now time.Time) http.Header {
	h := http.Header{}
	if rule, ok := ruleOf(c); ok {
		rule.sign(h, []byte(secret), id, body, now)
	}
	return h
}

// rule is how a platform signs, and what it sends.
type rule struct {
	check func(secret []byte, r Request, now time.Time) error
	sign  func(h http.Header, secret []byte, id string, body []byte, now time.Time)
	read  func(c guestproto.Channel, r Request) (Post, error)
}

func ruleOf(c guestproto.Channel) (rule, bool) {
	switch c.Kind {
	case mvm.ChannelSlack:
		return rule{checkSlack, signSlack, readSlack}, true
	case mvm.ChannelWhatsApp:
		return rule{checkHub, signHub, readWhatsApp}, true
	case mvm.ChannelLine:
		return rule{checkLine, signLine, readLine}, true
	case mvm.ChannelHook:
	default:
		return rule{}, false
	}
	switch c.Auth {
	case "", mvm.HookStandard:
		return rule{checkStandard, signStandard, readStandard}, true
	case mvm.HookHub:
		return rule{checkHub, signHub, readHook}, true
	case mvm.HookBearer:
		return rule{checkBearer, signBearer, readHook}, true
	}
	return rule{}, false
}
