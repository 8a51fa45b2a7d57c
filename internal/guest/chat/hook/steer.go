package hook

import (
	"mvm"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guestproto"
)

// Answer answers the host.
func (s *Shelf) Answer(q guestproto.Inbox) (r guestproto.InboxReport) {
	var err error
	switch q.Do {
	case guestproto.InboxList:
		r, err = s.list(q.Number)
	case guestproto.InboxShow:
		r, err = s.show(q.Number, q.Offset)
	case guestproto.InboxRetry:
		err = s.Retry(q.Number)
	case guestproto.InboxDrop:
		err = s.Drop(q.Number)
	default:
		err = mvm.Errorf(mvm.KindInvalid, "the inbox can't do %.20q", q.Do)
	}
	if err != nil {
		r.Problem, r.NotFound = err.Error(), mvm.IsKind(err, mvm.KindNotFound)
	}
	r.Damage = s.damage()
	return r
}

func (s *Shelf) list(after int64) (r guestproto.InboxReport, err error) {
	if s.unused() {
		return r, nil
	}
	entries, err := s.entries(after)
	for _, e := range entries {
		if len(r.Entries) == guestproto.MaxInboxEntries {
			r.More = true
			break
		}
		r.Entries = append(r.Entries, s.entry(e))
	}
	return r, err
}

// show returns the message with a part of its body.
func (s *Shelf) show(number int64, offset int) (r guestproto.InboxReport, err error) {
	box, err := s.open()
	if err != nil {
		return r, err
	}
	e, err := box.Entry(number)
	if err != nil {
		return r, err
	}
	body, err := box.Body(number)
	if err != nil {
		return r, err
	}
	offset = min(max(offset, 0), len(body))
	r.Body = body[offset:min(len(body), offset+guestproto.MaxInboxBody)]
	told := s.entry(e)
	told.Sender = e.Sender
	r.Entries = []guestproto.InboxEntry{told}
	return r, nil
}

// entry is what the host is told of a message: of its chat a digest.
func (s *Shelf) entry(e inbox.Entry) guestproto.InboxEntry {
	out := guestproto.InboxEntry{Number: e.Number, Channel: e.Channel, ID: e.ID, Size: e.Size, Received: e.Received,
		Refusals: e.Refusals, Errors: e.Errors, Why: e.Why, Aside: e.Aside, Changed: e.Changed}
	if t := s.trayOf(e.Channel); t != nil && e.Chat != "" {
		out.Chat = t.channel.Digest(e.Chat)
	}
	return out
}

// unused reports that no channel has kept anything in this boot, and that none is open.
func (s *Shelf) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.box == nil && len(s.trays) == 0
}

// Entries lists what the shelf's inbox keeps; of an entry that waits, with why the last try
// to deliver it failed.
func (s *Shelf) Entries() ([]inbox.Entry, error) { return s.entries(0) }

// entries are those behind a number.
func (s *Shelf) entries(after int64) ([]inbox.Entry, error) {
	box, err := s.open()
	if err != nil {
		return nil, err
	}
	entries := box.After("", after)
	for n, e := range entries {
		if t := s.trayOf(e.Channel); t != nil && !e.Aside {
			entries[n].Why = t.note(e)
		}
	}
	return entries, nil
}

// Retry has a message tried at once, also one that was set aside.
func (s *Shelf) Retry(number int64) error {
	box, err := s.open()
	if err != nil {
		return err
	}
	e, err := box.Entry(number)
	if err != nil {
		return err
	}
	t := s.trayOf(e.Channel)
	if t == nil {
		return mvm.Errorf(mvm.KindState, "retry message %d: its channel %s is not configured any more", number, e.Channel).
			WithFix("add the channel again, or drop the message")
	}
	if e.Aside {
		if err := box.Retry(number); err != nil {
			return err
		}
		if e, err = box.Entry(number); err != nil {
			return err
		}
		t.offerOne(e)
	}
	t.queue.Nudge()
	return nil
}

// Drop gives up a message.
func (s *Shelf) Drop(number int64) error {
	box, err := s.open()
	if err != nil {
		return err
	}
	e, err := box.Entry(number)
	if err == nil {
		err = box.Drop(number)
	}
	if t := s.trayOf(e.Channel); err == nil && t != nil {
		t.queue.Nudge()
	}
	return err
}

// trayOf is that of the open channel of the name, nil where there is none.
func (s *Shelf) trayOf(name string) *Tray {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trays[name]
}
