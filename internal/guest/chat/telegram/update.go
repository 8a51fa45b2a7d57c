package telegram

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"

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
	Date int64  `json:"date"`
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

// keyOf is the key of the worker. Where the chat or the sender is not known, it is the other.
func keyOf(c mvm.Channel, sender, in int64) string {
	return chat.KeyOf(c, strconv.FormatInt(cmp.Or(sender, in), 10), strconv.FormatInt(cmp.Or(in, sender), 10))
}

// listed is an id as allowlists have it, "" for none.
func listed(id int64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatInt(id, 10)
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
	m = chat.Message{ID: u.ID, Chat: listed(in), Body: raw, Urgent: u.urgent(), Key: keyOf(b.channel.Channel, sender, in), Answered: u.Message != nil}
	if u.Message != nil && u.Message.Date > 0 {
		m.Written = time.Unix(u.Message.Date, 0)
	}
	if !chat.Allowed(b.channel.Channel, listed(sender), m.Chat, in < 0) {
		why = chat.WhyNotAllowed
	}
	return m, why, nil
}

// number is an update's; 0: it has none.
func number(raw json.RawMessage) int64 {
	var u struct {
		ID int64 `json:"update_id"`
	}
	_ = json.Unmarshal(raw, &u)
	return u.ID
}

// sort reads an update; why says for what it is not delivered. Of one of a form that is not
// known it reads the number, if it can.
func (b *Bot) sort(raw json.RawMessage) (m chat.Message, why string) {
	m, why, err := b.read(raw)
	if err != nil {
		b.opt.Log.Warn("update not understood", "channel", b.channel.Name, "error", err)
		m.ID, why = number(raw), "its form is not known"
	}
	if why == "" && !b.newcomers.Allow(m.Key) {
		why = chat.WhyTooManyNew
	}
	return m, why
}
