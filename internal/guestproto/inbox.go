package guestproto

import "time"

// Inbox asks a gateway what messages it keeps, or changes one.
type Inbox struct {
	// Do is "list", the entries after Number; "show", the entry Number with its body from
	// Offset; "retry" or "drop".
	Do     string `json:"do"`
	Number int64  `json:"number,omitempty"`
	Offset int    `json:"offset,omitempty"`
}

// The values of Inbox.Do.
const (
	InboxList  = "list"
	InboxShow  = "show"
	InboxRetry = "retry"
	InboxDrop  = "drop"
)

// Bounds of one answer.
const (
	MaxInboxEntries = 100
	MaxInboxBody    = 128 << 10
)

// InboxReport answers Inbox. NotFound says that there is no such message.
type InboxReport struct {
	Entries  []InboxEntry `json:"entries,omitempty"` // by number
	More     bool         `json:"more,omitempty"`    // there are more after the last one
	Body     []byte       `json:"body,omitempty"`    // a part; Size of the entry is that of the whole
	Problem  string       `json:"problem,omitempty"` // why it could not be done
	NotFound bool         `json:"not_found,omitempty"`
	Damage   string       `json:"damage,omitempty"`
}

// InboxEntry is one message. Sender is told by "show" only.
type InboxEntry struct {
	Number   int64     `json:"number"`
	Channel  string    `json:"channel"`
	ID       string    `json:"id"`
	Chat     string    `json:"chat,omitempty"` // a digest
	Sender   string    `json:"sender,omitempty"`
	Size     int       `json:"size"`
	Received time.Time `json:"received"`
	Refusals int       `json:"refusals,omitempty"`
	Errors   int       `json:"errors,omitempty"`
	Why      string    `json:"why,omitempty"`
	Aside    bool      `json:"aside,omitempty"`
	Changed  time.Time `json:"changed"`
}
