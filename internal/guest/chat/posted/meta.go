package posted

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"mvm/internal/guestproto"
)

// object is JSON of which only some fields are known; the others are passed on.
type object map[string]json.RawMessage

// get reads a field into v, and leaves v alone where there is none.
func (o object) get(field string, v any) error {
	raw, ok := o[field]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("its %s: %w", field, err)
	}
	return nil
}

// with returns a copy with another value of the field.
func (o object) with(field string, v any) (object, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out := maps.Clone(o)
	out[field] = raw
	return out, nil
}

// readWhatsApp reads the messages of the WhatsApp Business Cloud API. Reports on messages
// that were sent, which it calls statuses, are none.
func readWhatsApp(_ guestproto.Channel, r Request) (p Post, err error) {
	var top object
	if err := json.Unmarshal(r.Body, &top); err != nil {
		return p, fmt.Errorf("its body is no JSON object: %w", err)
	}
	var entries []object
	if err := top.get("entry", &entries); err != nil {
		return p, err
	}
	for _, entry := range entries {
		var changes []object
		if err := entry.get("changes", &changes); err != nil {
			return p, err
		}
		for _, change := range changes {
			if err := p.addChange(top, entry, change); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// addChange adds the messages of a change, each in a body of its own.
func (p *Post) addChange(top, entry, change object) error {
	var value object
	var messages []json.RawMessage
	if err := errors.Join(change.get("value", &value), value.get("messages", &messages)); err != nil {
		return err
	}
	delete(value, "statuses")
	for _, raw := range messages {
		if len(p.Messages) > MaxMessages {
			return nil // too many, which is told
		}
		var known struct {
			ID   string `json:"id"`
			From string `json:"from"`
		}
		if err := json.Unmarshal(raw, &known); err != nil {
			return fmt.Errorf("a message: %w", err)
		}
		if known.ID == "" || known.From == "" {
			return errors.New("a message has no id or no sender")
		}
		body, err := wrap(raw, []object{value, change, entry, top}, []string{"messages", "value", "changes", "entry"})
		if err != nil {
			return err
		}
		p.Messages = append(p.Messages, Message{ID: known.ID, Chat: known.From, Sender: known.From, Body: body})
	}
	return nil
}

// wrap puts a value into the field of the first object, that into the second's, and so on.
// All fields but value are lists.
func wrap(inner json.RawMessage, around []object, fields []string) ([]byte, error) {
	for n, o := range around {
		var v any = []json.RawMessage{inner}
		if fields[n] == "value" {
			v = inner
		}
		o, err := o.with(fields[n], v)
		if err != nil {
			return nil, err
		}
		if inner, err = json.Marshal(o); err != nil {
			return nil, err
		}
	}
	return inner, nil
}
