package inbox

import (
	"bytes"
	"encoding/binary"
	"time"

	"mvm"
)

// Verdict is what Put did with a message.
type Verdict int

// The verdicts.
const (
	Kept     Verdict = iota // it is on the disk
	Repeat                  // it was already, and may be delivered
	ChatFull                // too many messages of its chat wait; it is not kept
)

// overhead is what a message may take of the file beside its body.
const overhead = 16 << 10

// Put keeps the messages, all of them with one sync, and says of each what it did. After an
// error none is kept.
func (b *Inbox) Put(messages ...Message) (verdicts []Verdict, err error) {
	room := 0
	for _, m := range messages {
		if err := b.check(m); err != nil {
			return nil, err
		}
		room += len(m.Body) + overhead
	}
	err = b.do(room, func(c *change) (err error) {
		verdicts, err = c.putAll(messages)
		return err
	})
	if err != nil {
		return nil, err
	}
	return verdicts, nil
}

func (b *Inbox) check(m Message) error {
	switch {
	case m.Channel == "", m.ID == "":
		return mvm.Errorf(mvm.KindInvalid, "keep a message: it has no channel or no id")
	case len(m.Body) > b.lim.Body:
		return mvm.Errorf(mvm.KindInvalid, "keep message of channel %s: it has %d bytes, more than %d", m.Channel, len(m.Body), b.lim.Body)
	case max(len(m.ID), len(m.Chat), len(m.Sender), len(m.Type)) > b.lim.ID:
		return mvm.Errorf(mvm.KindInvalid, "keep message of channel %s: its id, chat, sender or type has more than %d bytes", m.Channel, b.lim.ID)
	}
	return nil
}

// putAll decides on all messages before it writes one: another change may be in the same
// transaction, so that nothing can be taken back.
func (c *change) putAll(messages []Message) ([]Verdict, error) {
	verdicts := make([]Verdict, len(messages))
	fresh, total := map[string]bool{}, c.b.waiting
	chats := map[chatKey]tally{}
	for n, m := range messages {
		id, chat := idKey(m.Channel, m.ID), chatKey{m.Channel, m.Chat}
		of, ok := chats[chat]
		if !ok {
			of = c.b.chats[chat]
		}
		e := &Entry{Size: len(m.Body)}
		of.add(e, 1)
		switch {
		case fresh[string(id)] || bucket(c.tx, ids).Get(id) != nil:
			verdicts[n] = Repeat
			continue
		case of.n > c.b.lim.Chat || of.bytes > c.b.lim.ChatBytes:
			verdicts[n] = ChatFull
			continue
		}
		fresh[string(id)], chats[chat] = true, of
		total.add(e, 1)
	}
	if len(fresh) > 0 && (total.n > c.b.lim.Messages || total.bytes > c.b.lim.Bytes) {
		return nil, mvm.Errorf(mvm.KindQuota, "keep a message: %d messages of %d bytes wait already", c.b.waiting.n, c.b.waiting.bytes).
			WithFix("see why they are not delivered with: mvm inbox list TENANT")
	}
	for n, m := range messages {
		if verdicts[n] == Kept {
			if err := c.add(m); err != nil {
				return nil, err
			}
		}
	}
	return verdicts, c.forget()
}

func (c *change) add(m Message) error {
	h := bucket(c.tx, heads)
	seq, err := h.NextSequence()
	if err != nil {
		return err
	}
	e := Entry{Number: int64(seq), Channel: m.Channel, ID: m.ID, Chat: m.Chat, Sender: m.Sender, Type: m.Type, Size: len(m.Body), Received: c.now, Changed: c.now, Urgent: m.Urgent}
	if err := c.put(e, m.Body); err != nil {
		return err
	}
	if m.Track {
		if err := c.track(m); err != nil {
			return err
		}
	}
	return bucket(c.tx, ids).Put(idKey(m.Channel, m.ID), number(e.Number))
}

func idKey(channel, id string) []byte { return []byte(channel + "\x00" + id) }

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// remember keeps the id of what is not kept any more, so that a repeat is told.
func (c *change) remember(e Entry) error {
	key := append(binary.BigEndian.AppendUint64(nil, uint64(c.now.UnixNano())), number(e.Number)...)
	c.addKnown(1)
	return bucket(c.tx, gone).Put(key, idKey(e.Channel, e.ID))
}

func (c *change) addKnown(by int) {
	c.b.known += by
	c.undo = append(c.undo, func() { c.b.known -= by })
}

// maxForget bounds what one change forgets: no change takes long.
const maxForget = 64

// forget forgets ids of what was delivered long ago, and the oldest ones where there are
// too many.
func (c *change) forget() error {
	limit := binary.BigEndian.AppendUint64(nil, uint64(c.now.Add(-c.b.lim.Remember).UnixNano()))
	g := bucket(c.tx, gone)
	var old [][2][]byte
	cur := g.Cursor()
	for k, v := cur.First(); k != nil && len(old) < maxForget; k, v = cur.Next() {
		if bytes.Compare(k, limit) >= 0 && c.b.known-len(old) <= c.b.lim.Known {
			break
		}
		old = append(old, [2][]byte{bytes.Clone(k), bytes.Clone(v)})
	}
	for _, kv := range old {
		c.addKnown(-1)
		if err := g.Delete(kv[0]); err != nil {
			return err
		}
		if err := bucket(c.tx, ids).Delete(kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// Old reports whether the message has waited longer than a message may.
func (b *Inbox) Old(e Entry) bool { return b.now().Sub(e.Received) > b.lim.Age }

// Age is how long a message may wait.
func (b *Inbox) Age() time.Duration { return b.lim.Age }
