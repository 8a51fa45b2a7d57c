package inbox

import (
	"bytes"

	"go.etcd.io/bbolt"

	"mvm"
)

// maxTracked is of how many chats of a channel Last tells.
const maxTracked = 1000

// Last tells, by chat, which of the channel's messages was kept last of those with Track,
// whose ids are numbers that grow.
func (b *Inbox) Last(channel string) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read the last messages of channel %s: %w", channel, errClosed)
	}
	out := map[string]string{}
	err := b.guarded(func() error {
		return b.db.View(func(tx *bbolt.Tx) error {
			tracked(tx, channel, func(key, id []byte) { out[string(key[len(channel)+1:])] = string(id) })
			return nil
		})
	})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read the last messages of channel %s: %w", channel, err)
	}
	return out, nil
}

// tracked calls fn for each chat of the channel.
func tracked(tx *bbolt.Tx, channel string, fn func(key, id []byte)) {
	b := bucket(tx, newest)
	if b == nil {
		return
	}
	prefix := idKey(channel, "")
	cur := b.Cursor()
	for k, v := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cur.Next() {
		fn(k, v)
	}
}

// track notes the message as the last one of its chat. Where there are too many chats, the
// one whose last message is the oldest goes.
func (c *change) track(m Message) error {
	b, err := c.tx.CreateBucketIfNotExists([]byte(newest))
	if err != nil {
		return err
	}
	key := idKey(m.Channel, m.Chat)
	switch was := b.Get(key); {
	case was != nil && older([]byte(m.ID), was):
		return nil
	case was == nil:
		n := 0
		var oldest, least []byte
		tracked(c.tx, m.Channel, func(k, id []byte) {
			if n++; oldest == nil || older(id, least) {
				oldest, least = k, id
			}
		})
		if n >= maxTracked {
			if err := b.Delete(bytes.Clone(oldest)); err != nil {
				return err
			}
		}
	}
	return b.Put(key, []byte(m.ID))
}

// older compares ids that are numbers.
func older(a, b []byte) bool { return len(a) < len(b) || len(a) == len(b) && bytes.Compare(a, b) < 0 }
