package chat

import (
	"slices"
	"time"

	"mvm/internal/guestproto"
)

// Disk is what a channel has of the gateway's data disk, which outlives the gateway. Its
// platform keeps messages too, so that it is written only where that is not enough. Its methods
// may be called concurrently.
type Disk interface {
	Keeper
	// Begin offers the queue what is kept, in order. It gives the queue, from then on, what
	// people have tried again; of makes a message of a body.
	Begin(q *Queue, of func(body []byte) (Message, error)) error
	End()
	// Keep has the messages on the disk when it returns, and returns by which number; 0: not,
	// and the platform has to keep it.
	Keep(messages []Message) (numbers []int64, err error)

	// Owe has it on the disk when it returns, in place of an earlier debt of the chat.
	Owe(d Debt) error
	// Paid forgets debts.
	Paid(all []Debt) error
	// Debts are what an earlier run of the gateway has left.
	Debts() ([]Debt, error)

	// Look says what is kept, and what is wrong with it.
	Look() guestproto.InboxCheck
}

// Debt is a chat that waits for the answer to a message.
type Debt struct {
	Chat, Key, Instance string
	Message             int64
	Since               time.Time
}

// Kept reports whether the message is on the disk, so that the platform need not keep it.
func (t *Ticket) Kept() bool { return t.kept.Load() != 0 }

// Keep has what is not delivered yet of the tickets on the disk, where there is one.
func (q *Queue) Keep(all []*Ticket) error {
	if q.opt.Disk == nil {
		return nil
	}
	q.mu.Lock()
	all = slices.DeleteFunc(slices.Clone(all), func(t *Ticket) bool { return t.Kept() || q.byID[t.ID] != t })
	messages := make([]Message, len(all))
	for n, t := range all {
		messages[n] = t.Message
		messages[n].Body = t.body
	}
	q.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	numbers, err := q.opt.Disk.Keep(messages)
	if err != nil {
		return err
	}
	for n, t := range all {
		if numbers[n] == 0 {
			continue
		}
		q.mu.Lock()
		waits := q.byID[t.ID] == t
		if waits {
			t.kept.Store(numbers[n])
			t.body = nil
		}
		q.mu.Unlock()
		if !waits { // it was delivered meanwhile
			messages[n].Kept = numbers[n]
			q.opt.Disk.Settled(messages[n], guestproto.MessageAccepted, "")
		}
	}
	return nil
}

// keeper is what has the ticket's message; nil: the platform has.
func (q *Queue) keeper(t *Ticket) Keeper {
	switch {
	case q.opt.Keeper != nil:
		return q.opt.Keeper
	case t.Kept():
		return q.opt.Disk
	}
	return nil
}

// message is the ticket's, as its keeper knows it.
func (t *Ticket) message() Message {
	m := t.Message
	m.Kept = t.kept.Load()
	return m
}
