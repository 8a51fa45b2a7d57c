package telegram

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/guest/chat"
)

// updates are the kinds of updates that are asked for.
var updates = []string{"message", "edited_message", "channel_post", "edited_channel_post", "callback_query", "message_reaction", "inline_query", "my_chat_member"}

// update is what of an update decides where it goes. The worker gets all of it.
type update struct {
	ID                int64    `json:"update_id"`
	Message           *message `json:"message"`
	EditedMessage     *message `json:"edited_message"`
	ChannelPost       *message `json:"channel_post"`
	EditedChannelPost *message `json:"edited_channel_post"`
	CallbackQuery     *struct {
		From    *user    `json:"from"`
		Message *message `json:"message"`
	} `json:"callback_query"`
	Reaction *struct {
		Chat *place `json:"chat"`
		User *user  `json:"user"`
	} `json:"message_reaction"`
	InlineQuery *struct {
		From *user `json:"from"`
	} `json:"inline_query"`
	Member *struct {
		Chat *place `json:"chat"`
		From *user  `json:"from"`
	} `json:"my_chat_member"`
}

type message struct {
	From *user  `json:"from"`
	Chat *place `json:"chat"`
	Text string `json:"text"`
}

type user struct {
	ID int64 `json:"id"`
}

type place struct {
	ID   int64  `json:"id"`
	Type string `json:"type"`
}

// origin is who sent an update, and in which chat; zero where nobody or in none.
func (u update) origin() (sender, chat int64) {
	var from *user
	var in *place
	ofMessage := func(m *message) {
		if m != nil {
			from, in = m.From, m.Chat
		}
	}
	for _, m := range []*message{u.Message, u.EditedMessage, u.ChannelPost, u.EditedChannelPost} {
		ofMessage(m)
	}
	switch {
	case u.CallbackQuery != nil:
		ofMessage(u.CallbackQuery.Message)
		from = u.CallbackQuery.From
	case u.Reaction != nil:
		from, in = u.Reaction.User, u.Reaction.Chat
	case u.InlineQuery != nil:
		from = u.InlineQuery.From
	case u.Member != nil:
		from, in = u.Member.From, u.Member.Chat
	}
	if from != nil {
		sender = from.ID
	}
	if in != nil {
		chat = in.ID
	}
	return sender, chat
}

// urgent reports that the update does not wait for the worker to become idle: it steers
// what the worker does, or is no message.
func (u update) urgent() bool { return u.Message == nil || strings.HasPrefix(u.Message.Text, "/") }

// allowed reports whether the channel delivers what the sender wrote in the chat: in a
// group both have to be listed.
func allowed(c mvm.Channel, sender, chat int64) bool {
	if c.Open() {
		return true
	}
	has := func(id int64) bool { return slices.Contains(c.Allow, strconv.FormatInt(id, 10)) }
	switch {
	case sender == 0 && chat == 0:
		return false
	case chat < 0 && !has(chat):
		return false
	case sender == 0: // a post of a channel, or of an anonymous administrator
		return chat < 0
	}
	return has(sender)
}

// keyOf is the key of the worker.
func keyOf(c mvm.Channel, sender, chat int64) string {
	if key, ok := c.To.Selector.Fixed(); ok {
		return key
	}
	switch c.To.Selector.From {
	case mvm.KeyFromChat:
		if chat == 0 {
			chat = sender
		}
		return strconv.FormatInt(chat, 10)
	case mvm.KeyFromSender:
		if sender == 0 {
			sender = chat
		}
		return strconv.FormatInt(sender, 10)
	}
	return ""
}

// secretHeader is where Telegram, and to a worker the gateway, shows the secret.
const secretHeader = "X-Telegram-Bot-Api-Secret-Token"

// read makes a message of an update; why says for what it is not delivered.
func (b *Bot) read(raw json.RawMessage) (m chat.Message, why string, err error) {
	var u update
	if err := json.Unmarshal(raw, &u); err != nil || u.ID == 0 {
		return m, "", mvm.Errorf(mvm.KindInvalid, "read an update: it has another form")
	}
	sender, in := u.origin()
	m = chat.Message{ID: u.ID, Body: raw, Urgent: u.urgent(), Key: keyOf(b.channel.Channel, sender, in)}
	if in != 0 {
		m.Chat = strconv.FormatInt(in, 10)
	}
	switch {
	case !allowed(b.channel.Channel, sender, in):
		why = "its sender or group is not in the channel's allow"
	case !b.newcomers.Allow(m.Key):
		why = "too many new chats at once"
	}
	return m, why, nil
}
