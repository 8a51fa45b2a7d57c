package telegram

import (
	"context"
	"net/url"
	"strings"
	"time"

	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

var _ chat.Inspector = (*Bot)(nil)

// Inspect implements chat.Inspector: it has Telegram say who the bot is, which shows that the
// token is good, and where its messages go. It receives no messages, so that polling goes on
// undisturbed; whether another program does is known from that.
func (b *Bot) Inspect(ctx context.Context) guestproto.ChannelCheck {
	out := guestproto.ChannelCheck{ChannelStatus: b.Status()}
	if b.opt.Disk != nil {
		kept := b.opt.Disk.Look()
		out.Inbox = &kept
	}
	if b.api.token == "" {
		return out
	}
	began := time.Now()
	p := &guestproto.PlatformCheck{Result: guestproto.PlatformOK, Conflict: out.Detail == textConflict}
	if err := b.ask(ctx, p); err != nil {
		p.Result, p.Detail = b.explain(err)
	}
	p.TookMS = time.Since(began).Milliseconds()
	out.Platform = p
	return out
}

func (b *Bot) ask(ctx context.Context, p *guestproto.PlatformCheck) error {
	if err := b.api.call(ctx, "getMe", nil, nil); err != nil {
		return err
	}
	info, err := b.webhookInfo(ctx)
	if err != nil {
		return err
	}
	p.Webhook, p.Pending = b.channel.URL, info.Pending
	if info.URL != b.channel.URL {
		p.Webhook = hostOf(info.URL)
	}
	if info.LastError > 0 {
		at := time.Unix(info.LastError, 0)
		p.WebhookError, p.WebhookFailed = chat.Clip(strings.ReplaceAll(info.LastText, b.api.token, "…")), &at
	}
	return nil
}

// hostOf is an address without its path, in which other programs have the token.
func hostOf(address string) string {
	if address == "" {
		return ""
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "an address that is not valid"
	}
	return chat.Clip(u.Scheme + "://" + u.Host + "/…")
}
