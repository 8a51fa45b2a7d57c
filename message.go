package mvm

import (
	"strconv"
	"time"
)

// Message is a message of a chat in the inbox of a gateway.
type Message struct {
	Tenant   string    `json:"tenant"`
	Pool     string    `json:"pool"` // of the gateway
	Number   int64     `json:"number"`
	Channel  string    `json:"channel"`
	ID       string    `json:"id"`   // the platform's
	Chat     string    `json:"chat"` // a digest, as in events
	Size     int       `json:"size"`
	Received time.Time `json:"received"`
	// Refusals and Errors count answers of the worker: 4xx and 5xx.
	Refusals int       `json:"refusals"`
	Errors   int       `json:"errors"`
	Why      string    `json:"why,omitempty"` // the last try failed, or why it was set aside
	SetAside bool      `json:"set_aside"`
	Changed  time.Time `json:"changed"`
	// Sender and Body are told only of one message, and that is on record.
	Sender string `json:"sender,omitempty"`
	Body   []byte `json:"body,omitempty"`
}

// MaxMessageBytes bounds the body of one message.
const MaxMessageBytes = 1 << 20

// ParseMessageNumber reads a message's number.
func ParseMessageNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != s {
		return 0, Errorf(KindInvalid, "message %q is not a number from 1", clip(s)).WithFix("see the numbers with: mvm inbox list TENANT")
	}
	return n, nil
}
