package discord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"mvm/internal/guest/chat"
)

// Bounds of replies.
const (
	maxChunk  = 2000 // characters of a message
	maxChunks = 20
	maxReply  = 256 << 10 // bytes of a worker's answer
)

// Texts of mvm's own.
const (
	textFailed = "Your assistant could not answer: "
	textCut    = "\n… (the rest of the answer is too long for this chat)"
)

// answer is what a worker says to a message. It has no field where there is nothing to say.
type answer struct {
	Reply string `json:"reply"`
	Error string `json:"error"` // why there is no reply
}

// deliver asks the worker for its reply to a message and sends it. It may be called again
// for the same message, and then sends what was not sent yet.
func (b *Bot) deliver(ctx context.Context, lease chat.Lease, m chat.Message) error {
	instance, _ := lease.Instance()
	got, err := chat.Exchange(ctx, lease, b.channel.Channel, m, http.Header{
		"Authorization":    {"Bearer " + b.channel.WebhookSecret(instance)},
		"X-Mvm-Channel":    {b.channel.Name},
		"X-Mvm-Message-Id": {m.Ref},
	}, maxReply)
	switch {
	case err != nil:
		return err
	case got.Status == http.StatusAccepted:
		return chat.ErrLater
	case got.Status/100 != 2:
		return got.Refused("")
	}
	var a answer
	if len(got.Body) > 0 {
		if err := json.Unmarshal(got.Body, &a); err != nil {
			return got.Refused(" and no JSON")
		}
	}
	text := strings.TrimSpace(a.Reply)
	if text == "" && a.Error != "" {
		text = textFailed + chat.Clip(a.Error)
	}
	err = b.reply(ctx, m, text)
	var said *apiError
	if errors.As(err, &said) && said.final() {
		return &chat.Refusal{Instance: instance, Status: said.Status, Final: true, Why: "Discord does not take the answer: " + said.Error()}
	}
	return err
}

// post is a message that the bot sends.
type post struct {
	Content   string     `json:"content"`
	Nonce     string     `json:"nonce,omitempty"`
	Enforce   bool       `json:"enforce_nonce,omitempty"`
	Mentions  mentions   `json:"allowed_mentions"`
	Reference *reference `json:"message_reference,omitempty"`
}

// mentions says whom a message may notify.
type mentions struct {
	Parse   []string `json:"parse"`
	Replied bool     `json:"replied_user"`
}

// nobody is notified: what a model writes may name anybody.
var nobody = mentions{Parse: []string{}}

type reference struct {
	ID         string `json:"message_id"`
	FailIfGone bool   `json:"fail_if_not_exists"`
}

// reply sends the text as a reply to the message.
func (b *Bot) reply(ctx context.Context, m chat.Message, text string) error {
	if text == "" {
		return nil
	}
	parts := split(text)
	sent, err := b.sentParts(ctx, m)
	if err != nil {
		return err
	}
	for n := sent; n < len(parts); n++ {
		err := b.api.call(ctx, http.MethodPost, "/channels/"+m.Chat+"/messages", post{Content: parts[n], Nonce: fmt.Sprint(m.Ref, "-", n),
			Enforce: true, Mentions: nobody, Reference: &reference{ID: m.Ref}}, nil)
		if err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sent, m.Ref)
	return nil
}

// sentParts counts the parts of the reply to a message that were sent. Of a message that was
// kept in this life, and to which no reply was tried, it knows without asking.
func (b *Bot) sentParts(ctx context.Context, m chat.Message) (n int, err error) {
	b.mu.Lock()
	tried, fresh := b.sent[m.Ref]
	if fresh {
		b.sent[m.Ref] = true
	}
	b.mu.Unlock()
	if fresh && !tried {
		return 0, nil
	}
	self, err := b.learnSelf(ctx)
	if err != nil {
		return 0, err
	}
	since := m.Ref
	for range historyPages {
		page, err := b.history(ctx, m.Chat, since)
		if err != nil {
			return 0, err
		}
		for _, o := range page {
			since = o.ID
			if o.Author.ID == self && o.Reference.ID == m.Ref {
				n++
			}
		}
		if len(page) < historyPage {
			return n, nil
		}
	}
	return n, nil
}

// fresh notes messages that were kept just now, and to which no reply can have been sent.
func (b *Bot) fresh(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sent) < maxFresh {
		b.sent[id] = false
	}
}

// maxFresh bounds them. Of more, history is asked.
const maxFresh = 10_000

// split cuts a text into messages, between lines or words where it can.
func split(text string) (parts []string) {
	for text != "" {
		if len(parts) == maxChunks {
			last := []rune(parts[maxChunks-1])
			parts[maxChunks-1] = string(last[:min(len(last), maxChunk-len([]rune(textCut)))]) + textCut
			return parts
		}
		end := cut(text)
		if part := strings.TrimSpace(text[:end]); part != "" {
			parts = append(parts, part)
		}
		text = strings.TrimLeft(text[end:], "\n")
	}
	return parts
}

// cut returns where the first part of a text ends. Discord counts UTF-16 units.
func cut(text string) int {
	units, line, word := 0, 0, 0
	for at, r := range text {
		if units++; r > 0xffff {
			units++
		}
		if units > maxChunk {
			switch {
			case line > at/2:
				return line
			case word > at/2:
				return word
			}
			return at
		}
		switch r {
		case '\n':
			line = at + 1
		case ' ':
			word = at + 1
		}
	}
	return len(text)
}
