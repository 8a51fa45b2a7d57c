package discord

import (
	"context"
	"errors"
	"net/http"
	"time"

	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

var _ chat.Inspector = (*Bot)(nil)

// Inspect implements chat.Inspector: it has Discord say who the bot is, which shows that the
// token is good, and looks at what the inbox keeps.
func (b *Bot) Inspect(ctx context.Context) guestproto.ChannelCheck {
	out := b.hook.Inspect(ctx)
	if b.api.token == "" {
		return out
	}
	began := time.Now()
	p := &guestproto.PlatformCheck{Result: guestproto.PlatformOK}
	if err := b.api.call(ctx, http.MethodGet, "/users/@me", nil, nil); err != nil {
		p.Result, p.Detail = explain(err), chat.Clip(err.Error())
	}
	p.TookMS = time.Since(began).Milliseconds()
	out.Platform = p
	return out
}

func explain(err error) string {
	var said *apiError
	switch {
	case !errors.As(err, &said):
		return guestproto.PlatformUnreachable
	case said.Status == http.StatusUnauthorized:
		return guestproto.PlatformToken
	}
	return guestproto.PlatformError
}
