package guestproto

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"mvm"
)

// Channel is a channel of a gateway's pool with what only the gateway gets.
type Channel struct {
	mvm.Channel
	// Token is the value of the channel's secret; empty: the tenant has none of that name.
	Token []byte `json:"token,omitempty"`
	// Verify is the value of VerifySecret.
	Verify []byte `json:"verify,omitempty"`
	// Key makes what workers show the gateway, and it shows them: see Placeholder and
	// WebhookSecret. It does not depend on Token.
	Key []byte `json:"key"`
}

// Bare returns the token without the white space that a secret's file may have around it.
// KindState: the tenant has none; white space alone is none.
func (c Channel) Bare() ([]byte, error) { return bare(c.Secret, c.Token) }

// BareVerify does so with what answers the platform's verification.
func (c Channel) BareVerify() ([]byte, error) { return bare(c.VerifySecret, c.Verify) }

func bare(name string, secret []byte) ([]byte, error) {
	if secret = bytes.TrimSpace(secret); len(secret) > 0 {
		return secret, nil
	}
	return nil, mvm.Errorf(mvm.KindState, "the tenant has no secret %s; set it with `mvm tenant secrets set`", name)
}

// WorkerChannel is what a worker gets of a channel that leads to it, as
// /run/secrets/channels/<name>.json. Nothing in it is of use outside the tenant's network.
type WorkerChannel struct {
	Name string          `json:"name"`
	Kind mvm.ChannelKind `json:"kind"`
	// APIRoot is the gateway's proxy of the platform, which takes Token for the real one; of
	// Telegram.
	APIRoot string `json:"api_root,omitempty"`
	Token   string `json:"token,omitempty"`
	// Port and Path are where the gateway delivers. Telegram's messages have Secret in a
	// header; all others are signed with it, as the platform signs with the real one.
	Port   int      `json:"port"`
	Path   string   `json:"path"`
	Secret string   `json:"secret"`
	Allow  []string `json:"allow"`
}

// macLen is how many characters of a MAC are in a placeholder.
const macLen = 27

// Placeholder is the token of the instance for the gateway's proxy: the bot's id, as in the
// real token, the instance and its key, and a MAC of these. It stays the same when the
// real one is rotated. Empty: the real token is none of Telegram's.
func (c Channel) Placeholder(instance, key string) string {
	bot, ok := c.botID()
	if !ok {
		return ""
	}
	if c.To.Selector.From != mvm.KeyFromChat && c.To.Selector.From != mvm.KeyFromSender {
		key = ""
	}
	return bot + ":" + strings.TrimPrefix(instance, "i-") + "_" + key + "_" + c.mac("token", instance, key)[:macLen]
}

// ReadPlaceholder returns the instance and its key that a token is the Placeholder of.
func (c Channel) ReadPlaceholder(token string) (instance, key string, ok bool) {
	_, rest, _ := strings.Cut(token, ":")
	id, rest, found := strings.Cut(rest, "_")
	if !found || len(rest) < macLen+1 || len(token) > 512 {
		return "", "", false
	}
	instance, key = "i-"+id, rest[:len(rest)-macLen-1]
	want := c.Placeholder(instance, key)
	return instance, key, want != "" && hmac.Equal([]byte(want), []byte(token))
}

// WebhookSecret is what the gateway shows the instance with each message.
func (c Channel) WebhookSecret(instance string) string { return c.mac("webhook", instance, "") }

// PlatformSecret is what the platform shows the gateway with each message, in mode webhook.
// It changes with the token.
func (c Channel) PlatformSecret() string { return c.mac("platform", string(c.Token), "") }

// Digest names a chat in records, for who does not know Key.
func (c Channel) Digest(chat string) string { return c.mac("chat", chat, "")[:12] }

func (c Channel) mac(what, instance, key string) string {
	m := hmac.New(sha256.New, c.Key)
	for _, s := range []string{what, c.Name, instance, key} {
		m.Write([]byte(s + "\x00"))
	}
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (c Channel) botID() (string, bool) {
	token, _ := c.Bare()
	bot, rest, ok := strings.Cut(string(token), ":")
	return bot, ok && rest != "" && bot != "" && len(bot) <= 20 && strings.Trim(bot, "0123456789") == ""
}

// PreflightAck answers "Preflight": Safe says that the workload is idle, so that a message
// that comes now is not caught in other work, and Held that services hold still and must
// get nothing at all. Broken says that it is held for something of the workload that does
// not work. Restarts counts how often its services were started anew in this boot, and AgeMS
// is how long ago the last start was.
type PreflightAck struct {
	Safe     bool   `json:"safe"`
	Held     bool   `json:"held,omitempty"`
	Broken   bool   `json:"broken,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Restarts int    `json:"restarts,omitempty"`
	AgeMS    int64  `json:"age_ms,omitempty"`
}

// ReportMessages tells the host what became of messages.
type ReportMessages struct {
	Channel  string         `json:"channel"`
	Messages []MessageEvent `json:"messages"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// MaxMessages bounds the messages of one report.
const MaxMessages = 64

// MessageEvent is what became of one message: one of the values below. ID is
// the platform's, Chat a digest. The text is never in it.
type MessageEvent struct {
	What       string `json:"what"`
	ID         int64  `json:"id"`
	Chat       string `json:"chat,omitempty"`
	PoolID     string `json:"pool_id,omitempty"`
	InstanceID string `json:"instance_id,omitempty"`
	Detail     string `json:"detail,omitempty"`
	Count      int    `json:"count,omitempty"` // of messages like it; 0: one
}

// The values of MessageEvent.What.
const (
	MessageAccepted = "accepted"
	MessageRefused  = "refused"
	MessageSetAside = "set_aside"

	ReplyInterrupted = "interrupted" // the worker died before it had answered, and the chat was told
)

// ChannelStatus is how a gateway's channel is. State is "starting", "ready" or "failing".
type ChannelStatus struct {
	Name   string          `json:"name"`
	Kind   mvm.ChannelKind `json:"kind"`
	State  string          `json:"state"`
	Detail string          `json:"detail,omitempty"`
	Bot    string          `json:"bot,omitempty"` // its name on the platform
	// Waiting counts messages that are not delivered yet; Accepted, Refused and SetAside
	// those of this boot.
	Waiting  int        `json:"waiting,omitempty"`
	Oldest   *time.Time `json:"oldest,omitempty"` // since when the oldest of them waits
	Accepted int        `json:"accepted,omitempty"`
	Refused  int        `json:"refused,omitempty"`
	SetAside int        `json:"set_aside,omitempty"`
	Last     *time.Time `json:"last,omitempty"` // when the last message was accepted
	// PoolID is the pool to which the channel leads, and Backlogs says for which of its workers
	// messages wait for long.
	PoolID   string          `json:"pool_id,omitempty"`
	Backlogs []WorkerBacklog `json:"backlogs,omitempty"`
}

// WorkerBacklog counts the messages that wait for the worker of the key; without a key, for any
// worker that has none.
type WorkerBacklog struct {
	Key     string    `json:"key,omitempty"`
	Waiting int       `json:"waiting"`
	Oldest  time.Time `json:"oldest"`
}

// MaxBacklogs bounds the Backlogs of a channel: those whose messages have waited longest.
const MaxBacklogs = 32

// BacklogAfter is how long a message waits until that is told.
const BacklogAfter = time.Minute

// Backlog is how many messages wait, where one of them has for long.
func (c ChannelStatus) Backlog(now time.Time) int {
	if c.Oldest == nil || now.Sub(*c.Oldest) < BacklogAfter {
		return 0
	}
	return c.Waiting
}
