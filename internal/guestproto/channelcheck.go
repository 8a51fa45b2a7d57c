package guestproto

import "time"

// ChannelChecks answers "CheckChannels": how the gateway's channels are, with a look at their
// platforms and inbox just now. Everything in it that is no number is for people.
type ChannelChecks struct {
	Channels []ChannelCheck `json:"channels"`
}

// ChannelCheck is how one channel is.
type ChannelCheck struct {
	ChannelStatus
	Platform *PlatformCheck `json:"platform,omitempty"` // nil: it was not asked
	Inbox    *InboxCheck    `json:"inbox,omitempty"`    // nil: the channel keeps no messages
}

// PlatformCheck is what a platform says of a bot.
type PlatformCheck struct {
	Result string `json:"result"`           // one of the Platform constants
	Detail string `json:"detail,omitempty"` // why it is not PlatformOK
	// Conflict: another program receives the bot's messages.
	Conflict bool `json:"conflict,omitempty"`
	// Webhook is the address to which the platform delivers; WebhookError is why that failed
	// last, at WebhookFailed.
	Webhook       string     `json:"webhook,omitempty"`
	WebhookError  string     `json:"webhook_error,omitempty"`
	WebhookFailed *time.Time `json:"webhook_failed,omitempty"`
	Pending       int        `json:"pending,omitempty"` // messages that wait at the platform
	TookMS        int64      `json:"took_ms"`
}

// The values of PlatformCheck.Result.
const (
	PlatformOK          = "ok"
	PlatformUnreachable = "unreachable"
	PlatformToken       = "token"   // it refuses the token
	PlatformLimited     = "limited" // it asks to wait
	PlatformError       = "error"
)

// InboxCheck is what an inbox keeps of a channel.
type InboxCheck struct {
	Waiting int        `json:"waiting,omitempty"`
	Aside   int        `json:"aside,omitempty"`
	Oldest  *time.Time `json:"oldest,omitempty"` // when the oldest that waits arrived
	Problem string     `json:"problem,omitempty"`
	Damage  string     `json:"damage,omitempty"`
}
