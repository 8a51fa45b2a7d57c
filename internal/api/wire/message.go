package wire

import (
	"time"

	"mvm"
)

// Message is mvm.Message on the wire.
type Message struct {
	Tenant   string    `json:"tenant"`
	Pool     string    `json:"pool"`
	Number   int64     `json:"number"`
	Channel  string    `json:"channel"`
	ID       string    `json:"id"`
	Chat     string    `json:"chat"`
	Size     int       `json:"size"`
	Received time.Time `json:"received"`
	Refusals int       `json:"refusals"`
	Errors   int       `json:"errors"`
	Why      string    `json:"why,omitempty"`
	SetAside bool      `json:"set_aside"`
	Changed  time.Time `json:"changed"`
	Sender   string    `json:"sender,omitempty"`
	Body     []byte    `json:"body,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Message) Of(n mvm.Message) Message { return Message(n) }
func (w Message) Noun() mvm.Message      { return mvm.Message(w) }
