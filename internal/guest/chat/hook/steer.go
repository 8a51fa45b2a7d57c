package hook

import (
	"mvm"
	"mvm/internal/guest/chat/inbox"
)

// Entries lists what the shelf's inbox keeps; of an entry that waits, with why the last try
// to deliver it failed.
func (s *Shelf) Entries() ([]inbox.Entry, error) {
	box, err := s.open()
	if err != nil {
		return nil, err
	}
	entries := box.Entries("")
	for n, e := range entries {
		if h := s.hook(e.Channel); h != nil && !e.Aside {
			entries[n].Why = h.note(e)
		}
	}
	return entries, nil
}

// Body returns a message's bytes.
func (s *Shelf) Body(number int64) ([]byte, error) {
	box, err := s.open()
	if err != nil {
		return nil, err
	}
	return box.Body(number)
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
	h := s.hook(e.Channel)
	if h == nil {
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
		h.queue.Offer(h.message(e))
	}
	h.queue.Nudge()
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
	if h := s.hook(e.Channel); err == nil && h != nil {
		h.queue.Nudge()
	}
	return err
}

// hook is the open channel of the name, nil where there is none.
func (s *Shelf) hook(name string) *Hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hooks[name]
}
