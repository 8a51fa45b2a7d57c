package hook

import (
	"context"

	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

var _ chat.Inspector = (*Hook)(nil)

// Inspect implements chat.Inspector: it looks at what the inbox keeps of the channel.
func (h *Hook) Inspect(context.Context) guestproto.ChannelCheck {
	kept := &guestproto.InboxCheck{}
	box, err := h.shelf.open()
	if err != nil {
		kept.Problem = err.Error()
		return guestproto.ChannelCheck{ChannelStatus: h.Status(), Inbox: kept}
	}
	for _, e := range box.Entries(h.channel.Name) {
		if e.Aside {
			kept.Aside++
			continue
		}
		if kept.Waiting++; kept.Oldest == nil || e.Received.Before(*kept.Oldest) {
			kept.Oldest = &e.Received
		}
	}
	kept.Damage = box.Damage()
	return guestproto.ChannelCheck{ChannelStatus: h.Status(), Inbox: kept}
}
