package posted

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"mvm/internal/guestproto"
)

// slackRequest is a request of Slack's Events API.
type slackRequest struct {
	Type      string `json:"type"`
	Challenge string `json:"challenge"`
	EventID   string `json:"event_id"`
	Event     struct {
		User    slackName `json:"user"`
		Channel slackName `json:"channel"`
		BotID   string    `json:"bot_id"`
		Item    struct {
			Channel slackName `json:"channel"`
		} `json:"item"`
		Message struct {
			User  slackName `json:"user"`
			BotID string    `json:"bot_id"`
		} `json:"message"`
	} `json:"event"`
}

// slackName is an id, or an object that has it.
type slackName string

// UnmarshalJSON takes what has no id for none.
func (n *slackName) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if m, ok := v.(map[string]any); ok {
		v = m["id"]
	}
	if s, ok := v.(string); ok {
		*n = slackName(s)
	}
	return nil
}

// readSlack reads one event. What bots wrote is none: the tenant's own bot is one of them.
func readSlack(_ guestproto.Channel, r Request) (p Post, err error) {
	var in slackRequest
	if err := json.Unmarshal(r.Body, &in); err != nil {
		return p, fmt.Errorf("its body is no event of Slack: %w", err)
	}
	switch in.Type {
	case "url_verification":
		if in.Challenge == "" {
			return p, errors.New("it has no challenge")
		}
		p.Answer = in.Challenge
		return p, nil
	case "event_callback":
	default: // such as app_rate_limited
		return p, nil
	}
	if in.EventID == "" {
		return p, errors.New("it has no event_id")
	}
	e := in.Event
	if e.BotID != "" || e.Message.BotID != "" {
		return p, nil
	}
	chat := string(cmp.Or(e.Channel, e.Item.Channel))
	p.Messages = []Message{{ID: in.EventID, Chat: chat, Sender: string(cmp.Or(e.User, e.Message.User)),
		Group: chat != "" && !strings.HasPrefix(chat, "D"), Body: r.Body}} // D is a direct message
	return p, nil
}
