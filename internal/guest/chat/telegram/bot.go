// Package telegram is the adapter of the Telegram Bot API: it receives a bot's updates, by
// polling or as a webhook, and serves the Bot API to the bot's workers, who never have the
// real token.
package telegram

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

// Bot is one bot. Its methods may be called concurrently.
type Bot struct {
	channel   guestproto.Channel
	opt       chat.AdapterOptions
	api       *api
	queue     *chat.Queue
	newcomers *chat.Newcomers
	proxy     proxy
	group     sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc
	hooked    bool // Telegram has our address and secret; of keepWebhook
	standing  *chat.Standing
}

var _ chat.Adapter = (*Bot)(nil)

// Open starts a bot.
func Open(opt chat.AdapterOptions) chat.Adapter {
	c := opt.Channel
	b := &Bot{channel: c, opt: opt, api: newAPI(opt.HTTP, c), newcomers: chat.NewNewcomers(c.Channel), standing: chat.NewStanding(opt)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.proxy.init(b)
	b.queue = chat.NewQueue(chat.QueueOptions{Channel: c, Workers: opt.Workers, Platform: b, Recorder: opt.Recorder, Log: opt.Log, Limits: opt.Limits, Disk: opt.Disk, Flood: opt.Flood, Changed: opt.Changed,
		Header: func(instance string, _ chat.Message) http.Header {
			return http.Header{secretHeader: {c.WebhookSecret(instance)}}
		}})
	if _, err := c.Bare(); err != nil {
		b.standing.Tell(chat.StateFailing, err.Error())
		return b
	}
	b.group.Go(func() {
		switch {
		case !b.begin():
		case c.Polls():
			b.poll()
		default:
			b.keepWebhook()
		}
	})
	return b
}

// begin takes up what an earlier run of the gateway has left on the disk, as soon as that can
// be read; false: the bot is closed before. On a disk that is so full that nothing can be begun
// there is nothing: the bot works as without one.
func (b *Bot) begin() bool {
	if b.opt.Disk == nil {
		return true
	}
	for pause := firstPause; ; pause = min(stepFactor*pause, longestPause) {
		left, err := b.opt.Disk.Debts()
		if err == nil {
			b.queue.Owing(left)
		}
		err = errors.Join(err, b.opt.Disk.Begin(b.queue, b.readKept))
		if err == nil {
			return true
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			b.queue.Owing(nil)
			b.opt.Log.Warn("the gateway's disk is full: messages that wait, and answers that are owed, are not kept on it", "channel", b.channel.Name, "error", err)
			return true
		}
		b.standing.Tell(chat.StateFailing, err.Error())
		if !chat.Wait(b.ctx, pause) {
			return false
		}
	}
}

// readKept makes a message of what the disk has kept.
func (b *Bot) readKept(body []byte) (chat.Message, error) {
	m, why, err := b.read(body)
	if err == nil && why != "" { // the allowlist has changed
		err = errors.New(why)
	}
	return m, err
}

// Close implements chat.Adapter.
func (b *Bot) Close() {
	b.cancel()
	if b.opt.Disk != nil {
		b.opt.Disk.End()
	}
	b.queue.Close()
	b.group.Wait()
}

// Status implements chat.Adapter.
func (b *Bot) Status() guestproto.ChannelStatus { return b.standing.Status(b.queue.Counts()) }

// Typing implements chat.Platform.
func (b *Bot) Typing(ctx context.Context, chatID string) error {
	return b.api.call(ctx, "sendChatAction", map[string]any{"chat_id": numeric(chatID), "action": "typing"}, nil)
}

// Say implements chat.Platform.
func (b *Bot) Say(ctx context.Context, chatID, text string) error {
	err := b.api.call(ctx, "sendMessage", map[string]any{"chat_id": numeric(chatID), "text": text}, nil)
	var said *apiError
	if errors.As(err, &said) && (said.Code == http.StatusBadRequest || said.Code == http.StatusForbidden) {
		return mvm.Errorf(mvm.KindPolicy, "write to a chat: %w", err)
	}
	return err
}

func numeric(id string) any {
	if n, err := strconv.ParseInt(id, 10, 64); err == nil {
		return n
	}
	return id
}

// learnName asks who the bot is, which also shows that the token is good.
func (b *Bot) learnName(ctx context.Context) error {
	if b.standing.Bot() != "" {
		return nil
	}
	var me struct {
		Username string `json:"username"`
	}
	if err := b.api.call(ctx, "getMe", nil, &me); err != nil {
		return err
	}
	b.standing.SetBot("@" + chat.Clip(me.Username))
	return nil
}

// Pauses after failures.
const (
	firstPause   = time.Second
	longestPause = time.Minute
	deniedPause  = 5 * time.Minute // the token is refused: only a person can help
)

// failed notes why Telegram could not be asked and returns for how long to leave it alone.
func (b *Bot) failed(err error, pause time.Duration) time.Duration {
	result, detail := b.explain(err)
	var said *apiError
	switch {
	case result == guestproto.PlatformToken:
		pause = deniedPause
	case detail == textConflict:
		pause = min(pause, 5*time.Second)
	case result == guestproto.PlatformLimited && errors.As(err, &said):
		pause = max(pause, said.RetryAfter)
	}
	b.standing.Tell(chat.StateFailing, detail)
	return pause
}

const textConflict = "another program receives this bot's messages; end it, or give it a bot of its own"

// explain says for people why Telegram could not be asked.
func (b *Bot) explain(err error) (result, detail string) {
	var said *apiError
	if !errors.As(err, &said) {
		return guestproto.PlatformUnreachable, b.host() + " can't be reached: " + chat.Clip(reason(err))
	}
	switch said.Code {
	case http.StatusUnauthorized, http.StatusNotFound:
		return guestproto.PlatformToken, "Telegram refuses the token; set the secret " + b.channel.Secret + " anew, with the token that @BotFather shows"
	case http.StatusConflict:
		return guestproto.PlatformError, textConflict
	case http.StatusTooManyRequests:
		return guestproto.PlatformLimited, "Telegram asks to wait for " + said.RetryAfter.String()
	}
	return guestproto.PlatformError, said.Error()
}

func (b *Bot) host() string {
	if u, err := url.Parse(b.api.root); err == nil {
		return u.Host
	}
	return "Telegram"
}

// reason is the innermost text of an error that says what it is.
func reason(err error) string {
	_, text, ok := strings.Cut(err.Error(), ": ")
	if !ok {
		return err.Error()
	}
	return text
}
