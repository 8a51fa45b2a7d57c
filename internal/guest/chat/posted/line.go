package posted

import (
	"encoding/json"
	"errors"
	"fmt"

	"mvm/internal/guestproto"
)

// readLine reads the events of LINE's Messaging API. LINE tries an address with none.
func readLine(_ guestproto.Channel, r Request) (p Post, err error) {
	var top object
	if err := json.Unmarshal(r.Body, &top); err != nil {
		return p, fmt.Errorf("its body is no JSON object: %w", err)
	}
	var events []json.RawMessage
	if err := top.get("events", &events); err != nil {
		return p, err
	}
	for _, raw := range events {
		if len(p.Messages) > MaxMessages {
			return p, nil // too many, which is told
		}
		var e struct {
			ID     string `json:"webhookEventId"`
			Source struct {
				User  string `json:"userId"`
				Group string `json:"groupId"`
				Room  string `json:"roomId"`
			} `json:"source"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return p, fmt.Errorf("an event: %w", err)
		}
		if e.ID == "" {
			return p, errors.New("an event has no webhookEventId")
		}
		m := Message{ID: e.ID, Chat: e.Source.User, Sender: e.Source.User}
		switch {
		case e.Source.Group != "":
			m.Chat, m.Group = e.Source.Group, true
		case e.Source.Room != "":
			m.Chat, m.Group = e.Source.Room, true
		}
		if m.Body, err = wrap(raw, []object{top}, []string{"events"}); err != nil {
			return p, err
		}
		p.Messages = append(p.Messages, m)
	}
	return p, nil
}
