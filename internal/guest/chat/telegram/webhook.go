package telegram

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"mvm/internal/guest/chat"
)

// Bounds of what Telegram delivers itself.
const (
	maxUpdate    = 1 << 20
	webhookConns = 40               // updates at once
	webhookWait  = 50 * time.Second // for delivery: Telegram waits for 60 s
	webhookKeep  = 10 * time.Second // for delivery: then the disk has it, if there is one
	webhookLeft  = 2 * time.Minute  // in which Telegram sends again what it got no answer to
	webhookCheck = 10 * time.Minute // between two looks at whether Telegram has our address
)

// keepWebhook has Telegram deliver updates to the channel's address, until the bot is closed.
func (b *Bot) keepWebhook() {
	left := time.AfterFunc(webhookLeft, func() { b.queue.Delivered(func(int64) bool { return false }) })
	defer left.Stop()
	pause := firstPause
	for {
		next := webhookCheck
		if err := b.setWebhook(); err != nil {
			next = b.failed(err, pause)
			pause = min(stepFactor*pause, longestPause)
		} else {
			pause = firstPause
		}
		if !chat.Wait(b.ctx, next) {
			return
		}
	}
}

// webhookInfo is what Telegram says of a bot's webhook.
type webhookInfo struct {
	URL       string `json:"url"`
	Pending   int    `json:"pending_update_count"`
	LastError int64  `json:"last_error_date"`
	LastText  string `json:"last_error_message"`
}

func (b *Bot) webhookInfo(ctx context.Context) (info webhookInfo, err error) {
	err = b.api.call(ctx, "getWebhookInfo", nil, &info)
	return info, err
}

// setWebhook tells Telegram the channel's address, unless it has it, and notes how
// deliveries went.
func (b *Bot) setWebhook() error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*pollGrace)
	defer cancel()
	if err := b.learnName(ctx); err != nil {
		return err
	}
	info, err := b.webhookInfo(ctx)
	if err != nil {
		return err
	}
	if info.URL != b.channel.URL || !b.hooked { // its secret may be another one
		params := map[string]any{"url": b.channel.URL, "secret_token": b.channel.PlatformSecret(), "allowed_updates": updates, "max_connections": webhookConns}
		if err := b.api.call(ctx, "setWebhook", params, nil); err != nil {
			return err
		}
		b.hooked, info.LastError = true, 0
	}
	if info.LastError > 0 && time.Since(time.Unix(info.LastError, 0)) < webhookCheck {
		b.standing.Tell(chat.StateFailing, "Telegram can't deliver to "+b.channel.URL+": "+chat.Clip(info.LastText))
		return nil
	}
	b.standing.Tell(chat.StateReady, "")
	return nil
}

// Webhook implements chat.Adapter.
func (b *Bot) Webhook() (string, http.Handler) {
	if b.channel.Polls() || b.api.token == "" {
		return "", nil
	}
	return b.channel.HookPath(), http.HandlerFunc(b.receive)
}

// receive takes an update from Telegram. It answers 200 once the update is settled, or will
// never be delivered, and else 503: then Telegram sends it again, before those that follow.
func (b *Bot) receive(w http.ResponseWriter, r *http.Request) {
	got, want := r.Header.Get(secretHeader), b.channel.PlatformSecret()
	if r.Method != http.MethodPost || subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		http.Error(w, "this address takes messages of a bot only", http.StatusForbidden)
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUpdate))
	if err != nil {
		http.Error(w, "the update can't be read", http.StatusBadRequest)
		return
	}
	m, why := b.sort(json.RawMessage(raw))
	if why != "" {
		b.queue.Refuse(m, why)
		w.WriteHeader(http.StatusOK)
		return
	}
	if b.settled(r.Context(), b.queue.Offer(m)) {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Retry-After", "5")
	http.Error(w, "the message is not delivered yet", http.StatusServiceUnavailable)
}

// settled waits until the message is delivered, or kept on the disk; false: Telegram has to
// send it again.
func (b *Bot) settled(ctx context.Context, t *chat.Ticket) bool {
	timer := time.NewTimer(webhookWait)
	defer timer.Stop()
	var keep <-chan time.Time
	if b.opt.Disk != nil {
		soon := time.NewTimer(webhookKeep)
		defer soon.Stop()
		keep = soon.C
	}
	for {
		select {
		case <-t.Done():
			return t.Settled()
		case <-keep:
			if err := b.queue.Keep([]*chat.Ticket{t}); err != nil {
				b.opt.Log.Warn("message that waits is not kept on the disk", "channel", b.channel.Name, "message", t.ID, "error", err)
			}
			if t.Kept() {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		case <-b.ctx.Done():
			return false
		}
	}
}
