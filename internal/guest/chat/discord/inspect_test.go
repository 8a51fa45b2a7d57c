package discord_test

import (
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
	"mvm/test/discordapi"
)

// TestInspect: what is found of a bot that works, and of one whose token was revoked.
func TestInspect(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, mvm.KeyFromChat, alice)
	p.open()
	p.ready()
	look := func() guestproto.ChannelCheck { return p.bot.(chat.Inspector).Inspect(t.Context()) }
	if c := look(); c.Platform == nil || c.Platform.Result != guestproto.PlatformOK || c.Inbox == nil || c.Inbox.Problem != "" || c.Bot != "helper" {
		t.Errorf("%+v, platform %+v", c, c.Platform)
	}
	p.api.SetToken("another")
	if c := look(); c.Platform.Result != guestproto.PlatformToken || strings.Contains(c.Platform.Detail, token) {
		t.Errorf("a revoked token: %+v", c.Platform)
	}
}
