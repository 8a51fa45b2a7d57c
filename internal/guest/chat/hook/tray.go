package hook

import (
	"strconv"
	"sync"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
)

// Tray is the part of a shelf that one channel has. Its methods may be called concurrently.
type Tray struct {
	shelf   *Shelf
	channel guestproto.Channel
	opt     chat.AdapterOptions
	damaged func(text string) // takes up what is wrong with the inbox; nil: it is asked for

	// queue gets what is kept, made into messages by message.
	queue   *chat.Queue
	message func(inbox.Entry) (chat.Message, error)

	offering sync.Mutex // one offers at a time, in order
	offered  int64      // the last number that was

	mu    sync.Mutex
	notes map[int64]string // why the last try failed, where that is not worth a write
}

var _ chat.Disk = (*Tray)(nil)

// Disk returns what a channel whose platform keeps messages has of the shelf; nil: nothing on
// it would outlive the gateway.
func (s *Shelf) Disk(opt chat.AdapterOptions) chat.Disk {
	if mvm.IsKind(s.Ready(), mvm.KindState) {
		return nil
	}
	return s.tray(opt)
}

func (s *Shelf) tray(opt chat.AdapterOptions) *Tray {
	return &Tray{shelf: s, channel: opt.Channel, opt: opt, notes: map[int64]string{}}
}

// Begin implements chat.Disk.
func (t *Tray) Begin(q *chat.Queue, of func(body []byte) (chat.Message, error)) error {
	t.queue = q
	t.message = func(e inbox.Entry) (chat.Message, error) {
		body, err := t.body(e.Number)
		if err != nil {
			return chat.Message{}, err
		}
		m, err := of(body)
		m.Kept, m.Refusals, m.Errors = e.Number, e.Refusals, e.Errors
		return m, err
	}
	t.shelf.enter(t)
	return t.offer()
}

// End implements chat.Disk.
func (t *Tray) End() { t.shelf.leave(t) }

// offer gives the queue what the inbox has and the queue has not had yet, in order.
func (t *Tray) offer() error {
	t.offering.Lock()
	defer t.offering.Unlock()
	box, err := t.shelf.open()
	if err != nil {
		return err
	}
	for _, e := range box.After(t.channel.Name, t.offered) {
		t.offered = e.Number
		if !e.Aside {
			t.offerOne(e)
		}
	}
	return nil
}

// offerOne offers what an entry keeps. One that can't be read any more is set aside.
func (t *Tray) offerOne(e inbox.Entry) {
	m, err := t.message(e)
	if err != nil {
		t.opt.Log.Warn("message of the inbox not read", "channel", t.channel.Name, "message", e.Number, "error", err)
		t.Settled(chat.Message{Kept: e.Number}, guestproto.MessageSetAside, err.Error())
		return
	}
	t.queue.Offer(m)
}

// Keep implements chat.Disk.
func (t *Tray) Keep(messages []chat.Message) ([]int64, error) {
	box, err := t.shelf.open()
	if err != nil {
		return nil, err
	}
	wanted := make([]inbox.Message, len(messages))
	for n, m := range messages {
		wanted[n] = inbox.Message{Channel: t.channel.Name, ID: strconv.FormatInt(m.ID, 10), Chat: m.Chat, Type: posted.Content, Body: m.Body, Urgent: m.Urgent}
	}
	t.offering.Lock() // they are offered already
	defer t.offering.Unlock()
	verdicts, err := box.Put(wanted...)
	if err != nil {
		return nil, err
	}
	numbers, byID := make([]int64, len(messages)), map[string]int64{}
	for _, e := range box.After(t.channel.Name, t.offered) {
		byID[e.ID], t.offered = e.Number, e.Number
	}
	for n, v := range verdicts {
		if v == inbox.Kept {
			numbers[n] = byID[wanted[n].ID]
		}
	}
	return numbers, nil
}

// Owe implements chat.Disk.
func (t *Tray) Owe(d chat.Debt) error {
	box, err := t.shelf.open()
	if err != nil {
		return err
	}
	return box.Owe(t.channel.Name, inbox.Debt(d))
}

// Paid implements chat.Disk.
func (t *Tray) Paid(all []chat.Debt) error {
	box, err := t.shelf.open()
	if err != nil {
		return err
	}
	paid := make([]inbox.Debt, len(all))
	for n, d := range all {
		paid[n] = inbox.Debt(d)
	}
	return box.Paid(t.channel.Name, paid...)
}

// Debts implements chat.Disk.
func (t *Tray) Debts() (all []chat.Debt, err error) {
	box, err := t.shelf.open()
	if err != nil {
		return nil, err
	}
	left, err := box.Debts(t.channel.Name)
	for _, d := range left {
		all = append(all, chat.Debt(d))
	}
	return all, err
}

// Look implements chat.Disk.
func (t *Tray) Look() (kept guestproto.InboxCheck) {
	box, err := t.shelf.open()
	if err != nil {
		kept.Problem = err.Error()
		return kept
	}
	for _, e := range box.Entries(t.channel.Name) {
		if e.Aside {
			kept.Aside++
			continue
		}
		if kept.Waiting++; kept.Oldest == nil || e.Received.Before(*kept.Oldest) {
			kept.Oldest = &e.Received
		}
	}
	kept.Damage = box.Damage()
	return kept
}

// Check implements chat.Keeper.
func (t *Tray) Check(m chat.Message) error {
	_, err := t.due(m)
	return err
}

// due returns the inbox that has the message, which is still to be delivered.
func (t *Tray) due(m chat.Message) (*inbox.Inbox, error) {
	box, err := t.shelf.open()
	if err != nil {
		return nil, err
	}
	e, err := box.Entry(m.Kept)
	switch {
	case mvm.IsKind(err, mvm.KindNotFound), err == nil && e.Aside:
		return nil, chat.ErrGone
	case err != nil:
		return nil, err
	case box.Old(e):
		return nil, &chat.Refusal{Final: true, Why: "it has waited for more than " + box.Age().String() + "; the last try: " + t.note(e)}
	}
	return box, nil
}

// Read implements chat.Keeper.
func (t *Tray) Read(m chat.Message) ([]byte, error) {
	if _, err := t.due(m); err != nil {
		return nil, err
	}
	body, err := t.body(m.Kept)
	if mvm.IsKind(err, mvm.KindInternal) {
		err = &chat.Refusal{Final: true, Why: err.Error()}
	}
	return body, err
}

func (t *Tray) body(number int64) ([]byte, error) {
	box, err := t.shelf.open()
	if err != nil {
		return nil, err
	}
	return box.Body(number)
}

// Failed implements chat.Keeper.
func (t *Tray) Failed(m chat.Message, counts bool, why string) {
	if !counts {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.notes[m.Kept] = why
		return
	}
	t.written(m, "note a try", func(b *inbox.Inbox) error { return b.Failed(m.Kept, m.Refusals, m.Errors, why) })
}

// Settled implements chat.Keeper.
func (t *Tray) Settled(m chat.Message, what, why string) {
	switch what {
	case guestproto.MessageAccepted:
		t.written(m, "forget what is delivered", func(b *inbox.Inbox) error { return b.Done(m.Kept) })
	case guestproto.MessageSetAside:
		t.written(m, "set aside", func(b *inbox.Inbox) error { return b.SetAside(m.Kept, why) })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.notes, m.Kept)
}

// written changes the inbox. What it can't write is done again after a restart: then a
// message may be delivered again.
func (t *Tray) written(m chat.Message, what string, change func(*inbox.Inbox) error) {
	box, err := t.shelf.open()
	if err == nil {
		err = change(box)
	}
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		t.opt.Log.Error("inbox not changed", "channel", t.channel.Name, "message", m.Kept, "change", what, "error", err)
	}
}

// note is why the last try to deliver the message failed.
func (t *Tray) note(e inbox.Entry) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if why := t.notes[e.Number]; why != "" {
		return why
	}
	return e.Why
}
