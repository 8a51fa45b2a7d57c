package hook

import (
	"context"

	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

var _ chat.Inspector = (*Hook)(nil)

// Inspect implements chat.Inspector: it looks at what the inbox keeps of the channel.
func (h *Hook) Inspect(context.Context) guestproto.ChannelCheck {
	kept := h.Look()
	return guestproto.ChannelCheck{ChannelStatus: h.Status(), Inbox: &kept}
}
