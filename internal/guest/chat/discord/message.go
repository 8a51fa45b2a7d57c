package discord

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/posted"
)

// user is a user of Discord.
type user struct {
	ID       string `json:"id"`
	Username string `json:"username"`
	Bot      bool   `json:"bot"`
	System   bool   `json:"system"`
}

// message is what is read of a message.
type message struct {
	ID         string `json:"id"`
	Chat       string `json:"channel_id"`
	Server     string `json:"guild_id"`
	Author     user   `json:"author"`
	Webhook    string `json:"webhook_id"`
	Type       int    `json:"type"`
	Content    string `json:"content"`
	Mentions   []user `json:"mentions"`
	Referenced *struct {
		Author user `json:"author"`
	} `json:"referenced_message"`
	Reference struct {
		ID string `json:"message_id"`
	} `json:"message_reference"`
}

// Types of messages that people write.
const (
	typeDefault = 0
	typeReply   = 19
)

// maxMessage bounds the JSON of a message.
const maxMessage = 256 << 10

// accept returns the message of the JSON for the inbox; ok says that it is to be delivered.
// What is to be recorded as refused is.
func (b *Bot) accept(raw json.RawMessage, self string) (out posted.Message, ok bool) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil || !isID(m.ID) || !isID(m.Chat) || !isID(m.Author.ID) || m.Server != "" && !isID(m.Server) {
		b.opt.Log.Warn("message not understood", "channel", b.channel.Name, "error", err)
		return out, false
	}
	switch {
	case m.Author.ID == self, m.Author.Bot, m.Author.System, m.Webhook != "", m.Type != typeDefault && m.Type != typeReply:
		return out, false
	case m.Server != "" && !m.isFor(self): // people talk with each other
		return out, false
	case !b.allows(m):
		b.hook.Refuse(m.Chat, chat.WhyNotAllowed)
		return out, false
	case len(raw) > maxMessage:
		b.hook.Refuse(m.Chat, "it is too large")
		return out, false
	}
	return posted.Message{ID: m.ID, Chat: m.Chat, Sender: m.Author.ID, Body: raw, Urgent: m.urgent(self)}, true
}

// isFor reports whether the message speaks to the bot: it mentions it, or replies to it.
func (m message) isFor(self string) bool {
	return m.Referenced != nil && m.Referenced.Author.ID == self || slices.ContainsFunc(m.Mentions, func(u user) bool { return u.ID == self })
}

// allows reports whether the channel lists where the message was written: on a server its
// chat or the server. The sender is looked at after that.
func (b *Bot) allows(m message) bool {
	return m.Server == "" || b.channel.Open() || slices.Contains(b.channel.Allow, m.Chat) || slices.Contains(b.channel.Allow, m.Server)
}

// urgent reports a command, which does not wait for the turn under way.
func (m message) urgent(self string) bool {
	text := strings.TrimSpace(strings.NewReplacer("<@"+self+">", "", "<@!"+self+">", "").Replace(m.Content))
	return strings.HasPrefix(text, "/") || strings.EqualFold(text, "stop")
}

// Of reading history.
const (
	historyPage  = 100
	historyPages = 20
)

// fill keeps what was written in each chat since its last message that was kept.
func (b *Bot) fill(ctx context.Context, self string) error {
	last, err := b.hook.Last()
	if err != nil {
		return err
	}
	for id, since := range last {
		if !isID(id) || !isID(since) {
			continue
		}
		if err := b.fillChat(ctx, id, since, self); gone(err) {
			b.opt.Log.Warn("history not read", "channel", b.channel.Name, "error", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bot) fillChat(ctx context.Context, id, since, self string) error {
	var c struct {
		Server string `json:"guild_id"`
		Last   string `json:"last_message_id"`
	}
	if err := b.api.call(ctx, http.MethodGet, "/channels/"+id, nil, &c); err != nil {
		return err
	}
	if isID(c.Last) && !after(c.Last, since) {
		return nil
	}
	for range historyPages {
		page, err := b.history(ctx, id, since)
		if err != nil {
			return err
		}
		var wanted []posted.Message
		for _, h := range page {
			since = h.ID
			if m, ok := b.accept(h.on(c.Server), self); ok {
				wanted = append(wanted, m)
			}
		}
		if err := b.keep(ctx, wanted); err != nil {
			return err
		}
		if len(page) < historyPage {
			return nil
		}
	}
	b.opt.Log.Warn("more was written than is read of a chat's history", "channel", b.channel.Name, "messages", historyPages*historyPage)
	b.hook.Refuse(id, "more was written while the gateway was away than it reads of a chat's history")
	return nil
}

// old is a message of the history.
type old struct {
	message
	raw json.RawMessage
}

// on is the message's JSON with the server on which it is: history does not tell.
func (o old) on(server string) json.RawMessage {
	var fields map[string]json.RawMessage
	if !isID(server) || json.Unmarshal(o.raw, &fields) != nil {
		return o.raw
	}
	fields["guild_id"] = json.RawMessage(`"` + server + `"`)
	raw, err := json.Marshal(fields)
	if err != nil {
		return o.raw
	}
	return raw
}

// history returns the messages that follow in a chat, the oldest first.
func (b *Bot) history(ctx context.Context, id, since string) (out []old, err error) {
	var page []json.RawMessage
	if err := b.api.call(ctx, http.MethodGet, "/channels/"+id+"/messages?limit=100&after="+since, nil, &page); err != nil {
		return nil, err
	}
	for _, raw := range page {
		o := old{raw: raw}
		if json.Unmarshal(raw, &o.message) == nil && isID(o.ID) && after(o.ID, since) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b old) int {
		if after(a.ID, b.ID) {
			return 1
		}
		return -1
	})
	return out, nil
}
