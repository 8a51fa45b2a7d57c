package mvm

import (
	"net/url"
	"slices"
	"strings"
)

// The kinds of channels whose platforms post messages, and do not keep one that is
// answered: the gateway keeps them on its data disk.
const (
	ChannelSlack    ChannelKind = "slack"
	ChannelWhatsApp ChannelKind = "whatsapp" // the WhatsApp Business Cloud API
	ChannelLine     ChannelKind = "line"
	ChannelHook     ChannelKind = "webhook" // whatever signs its requests
)

// ChannelDiscord is Discord, to which the gateway has a connection. What was sent is not sent
// again to a connection that comes later, so the gateway keeps it as well.
const ChannelDiscord ChannelKind = "discord"

// HookAuth is how a request of kind webhook shows that it may come.
type HookAuth string

// The ways. Empty is HookStandard.
const (
	HookStandard HookAuth = "standard" // signed, as standardwebhooks.com has it
	HookHub      HookAuth = "hub"      // signed in X-Hub-Signature-256
	HookBearer   HookAuth = "bearer"   // the secret, as a bearer token
)

// Sources of what a request of kind webhook says of its message.
const (
	fromHeader = "header:"
	fromJSON   = "json:"
)

// Keeps reports whether the gateway keeps the channel's messages on its data disk.
func (c Channel) Keeps() bool { return c.Kind != ChannelTelegram }

// Keeps reports whether gateways of the pool keep messages on their data disks.
func (s PoolSpec) Keeps() bool { return slices.ContainsFunc(s.Channels, Channel.Keeps) }

// Secrets are the names of the tenant's secrets that the channel's gateway gets, and no
// other guest.
func (c Channel) Secrets() []string {
	if c.VerifySecret == "" {
		return []string{c.Secret}
	}
	return []string{c.Secret, c.VerifySecret}
}

// HookPath is the path at which a platform posts.
func (c Channel) HookPath() string {
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "" || err != nil:
		return "/" + c.Name
	case u.Path == "":
		return "/"
	}
	return u.Path
}

func (c Channel) validateHook() error {
	if c.VerifySecret != "" && c.Kind != ChannelWhatsApp {
		return Errorf(KindInvalid, "verify_secret is for kind whatsapp")
	}
	if c.Kind != ChannelHook {
		if c.Auth != "" || c.IDFrom != "" || c.ChatFrom != "" || c.SenderFrom != "" {
			return Errorf(KindInvalid, "auth, id_from, chat_from and sender_from are for kind webhook")
		}
	}
	switch {
	case !c.Keeps():
		return nil
	case c.ProxyPort != 0:
		return Errorf(KindInvalid, "proxy_port is for kind telegram")
	case c.APIRoot != "" && c.Kind != ChannelDiscord:
		return Errorf(KindInvalid, "api_root is for kind telegram or discord")
	case c.Kind == ChannelWhatsApp && c.VerifySecret == "":
		return Errorf(KindInvalid, "verify_secret is missing").WithFix("name the secret that has the verify token which you gave to Meta")
	case c.Kind == ChannelWhatsApp:
		return ValidateSecretName(c.VerifySecret)
	case c.Kind == ChannelHook:
		return c.validateSources()
	}
	return nil
}

func (c Channel) validateSources() error {
	switch c.Auth {
	case "", HookStandard, HookHub, HookBearer:
	default:
		return Errorf(KindInvalid, "auth %q is not standard, hub or bearer", clip(string(c.Auth)))
	}
	for name, from := range map[string]string{"id_from": c.IDFrom, "chat_from": c.ChatFrom, "sender_from": c.SenderFrom} {
		if from != "" && !validSource(from) {
			return Errorf(KindInvalid, "%s %q is not header:<name> or json:<pointer>", name, clip(from))
		}
	}
	switch key := c.To.Selector.From; {
	case c.SenderFrom == "" && !c.Open():
		return Errorf(KindInvalid, "allow lists senders, and nothing says who the sender is").WithFix(`set sender_from, or allow everybody with ["*"]`)
	case key == KeyFromChat && c.ChatFrom == "":
		return Errorf(KindInvalid, "the key is the chat, and nothing says what the chat is").WithFix("set chat_from")
	case key == KeyFromSender && c.SenderFrom == "":
		return Errorf(KindInvalid, "the key is the sender, and nothing says who that is").WithFix("set sender_from")
	}
	return nil
}

func validSource(from string) bool {
	if len(from) > maxChannelText {
		return false
	}
	if name, ok := strings.CutPrefix(from, fromHeader); ok {
		return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
	}
	pointer, ok := strings.CutPrefix(from, fromJSON)
	return ok && strings.HasPrefix(pointer, "/")
}
