// Package discord is the adapter of Discord: it has the connection to Discord's gateway, from
// which a bot's messages come, and sends the answers of the bot's workers, who never have
// the token.
//
// A message is in the inbox, on the disk, before the connection's sequence number counts it
// as seen. So one that was not kept comes again when the session is resumed. Where it can't
// be resumed, and when the gateway has restarted, each chat's history since the last message
// that was kept is read.
//
// A worker gets a message until it answers with a reply. Only once Discord has the reply does
// the inbox forget the message. A reply is a Discord reply to its message, with a nonce:
// sent again, it is found out, by Discord for some minutes and by its history after that.
package discord

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guestproto"
)

// Bot is one bot. Its methods may be called concurrently.
type Bot struct {
	channel  guestproto.Channel
	opt      chat.AdapterOptions
	api      *api
	standing *chat.Standing
	hook     *hook.Hook
	times    times

	// Of run alone.
	session    session
	identified time.Time     // when the last session was asked for
	gap        bool          // messages may have been missed
	up         bool          // the connection has, or had, a session
	damage     func() string // of the inbox

	mu   sync.Mutex
	self string          // the bot's id
	sent map[string]bool // messages whose reply may have been sent, of those kept in this life
}

var (
	_ chat.Adapter  = (*Bot)(nil)
	_ chat.Platform = (*Bot)(nil)
)

// times are how long the bot waits, all by one unit.
type times struct{ unit time.Duration }

func (t times) first() time.Duration    { return 2 * t.unit }   // pause after a failure
func (t times) longest() time.Duration  { return 120 * t.unit } // and at most
func (t times) identify() time.Duration { return 10 * t.unit }  // between two new sessions
func (t times) denied() time.Duration   { return 600 * t.unit } // only a person can help

// Times of a Queue.
const (
	typingEvery = 8 * time.Second // Discord shows it for 10
	deliverTime = 5 * time.Minute // a worker's answer, and sending it
	askAgain    = time.Second     // whether a worker is done
)

// Opener returns what opens bots that keep their messages on the shelf.
func Opener(shelf *hook.Shelf) func(chat.AdapterOptions) chat.Adapter {
	return func(opt chat.AdapterOptions) chat.Adapter { return open(opt, shelf) }
}

func open(opt chat.AdapterOptions, shelf *hook.Shelf) *Bot {
	c := opt.Channel
	b := &Bot{channel: c, opt: opt, api: newAPI(opt.HTTP, c), standing: chat.NewStanding(opt), sent: map[string]bool{},
		gap: true, times: times{cmp.Or(opt.Limits.Retry, 500*time.Millisecond)}}
	opt.Limits.Typing = cmp.Or(opt.Limits.Typing, typingEvery)
	opt.Limits.Post = cmp.Or(opt.Limits.Post, deliverTime)
	opt.Limits.PollMax = cmp.Or(opt.Limits.PollMax, askAgain)
	b.hook = hook.New(opt, shelf, hook.Extra{Platform: b, Deliver: b.deliver, Run: b.run, Kept: b.fresh, Standing: b.standing})
	b.hook.Begin()
	return b
}

// Close implements chat.Adapter.
func (b *Bot) Close() { b.hook.Close() }

// Status implements chat.Adapter.
func (b *Bot) Status() guestproto.ChannelStatus { return b.hook.Status() }

// Webhook implements chat.Adapter: Discord does not connect to us.
func (b *Bot) Webhook() (string, http.Handler) { return "", nil }

// Proxy implements chat.Adapter: workers do not reach Discord.
func (b *Bot) Proxy(http.ResponseWriter, *http.Request) bool { return false }

// Typing implements chat.Platform.
func (b *Bot) Typing(ctx context.Context, chatID string) error {
	return b.api.call(ctx, http.MethodPost, "/channels/"+chatID+"/typing", nil, nil)
}

// Say implements chat.Platform.
func (b *Bot) Say(ctx context.Context, chatID, text string) error {
	return b.api.call(ctx, http.MethodPost, "/channels/"+chatID+"/messages", post{Content: text, Mentions: nobody}, nil)
}

// learnSelf returns the bot's id.
func (b *Bot) learnSelf(ctx context.Context) (string, error) {
	b.mu.Lock()
	id := b.self
	b.mu.Unlock()
	if id != "" {
		return id, nil
	}
	var me user
	if err := b.api.call(ctx, http.MethodGet, "/users/@me", nil, &me); err != nil {
		return "", err
	}
	return b.setSelf(me)
}

func (b *Bot) setSelf(me user) (string, error) {
	if !isID(me.ID) {
		return "", mvm.Errorf(mvm.KindUnavailable, "ask Discord who the bot is: it has no id")
	}
	b.mu.Lock()
	b.self = me.ID
	b.mu.Unlock()
	b.standing.SetBot(chat.Clip(me.Username))
	return me.ID, nil
}

// isID reports whether s is an id of Discord: a number.
func isID(s string) bool {
	return s != "" && len(s) <= 20 && strings.Trim(s, "0123456789") == ""
}

// after reports whether the id is of something later than the other.
func after(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }
