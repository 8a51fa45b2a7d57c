package inbox

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
)

// Debt is a chat that waits for the answer to its last message.
type Debt struct {
	Chat     string    `json:"chat"`
	Key      string    `json:"key,omitempty"` // of the worker
	Instance string    `json:"instance"`      // which the worker was
	Message  int64     `json:"message"`
	Since    time.Time `json:"since"`
}

// oldDebt is after how long nobody waits for an answer any more.
const oldDebt = 24 * time.Hour

// Owe has the debt on the disk when it returns, in place of an earlier one of the chat.
func (b *Inbox) Owe(channel string, d Debt) error {
	if channel == "" || max(len(d.Chat), len(d.Key), len(d.Instance)) > b.lim.ID {
		return mvm.Errorf(mvm.KindInvalid, "note an answer that is owed in channel %s: its chat, key or instance has more than %d bytes", channel, b.lim.ID)
	}
	text, err := json.Marshal(d)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "note an answer that is owed in channel %s: %w", channel, err)
	}
	value := append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(text, castagnoli)), text...)
	return b.do(overhead, func(c *change) error {
		o, err := c.tx.CreateBucketIfNotExists([]byte(owed))
		if err != nil {
			return err
		}
		c.wrote()
		return o.Put(idKey(channel, d.Chat), value)
	})
}

// Paid forgets debts of the channel; one that is of a later message by now stays.
func (b *Inbox) Paid(channel string, all ...Debt) error {
	return b.do(0, func(c *change) error {
		o := bucket(c.tx, owed)
		if o == nil {
			return nil
		}
		for _, d := range all {
			key := idKey(channel, d.Chat)
			if is, ok := readDebt(o.Get(key)); o.Get(key) == nil || ok && is.Message != d.Message {
				continue
			}
			c.wrote()
			if err := o.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
}

// Debts are those of the channel that are not too old. What can't be read is left out.
func (b *Inbox) Debts(channel string) (all []Debt, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read which answers channel %s owes: %w", channel, errClosed)
	}
	err = b.guarded(func() error {
		return b.db.View(func(tx *bbolt.Tx) error {
			o := bucket(tx, owed)
			if o == nil {
				return nil
			}
			prefix := idKey(channel, "")
			cur := o.Cursor()
			for k, v := cur.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cur.Next() {
				if d, ok := readDebt(v); ok && b.now().Sub(d.Since) < oldDebt {
					all = append(all, d)
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read which answers channel %s owes: %w", channel, err)
	}
	return all, nil
}

func readDebt(v []byte) (d Debt, ok bool) {
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return d, false
	}
	return d, json.Unmarshal(v[4:], &d) == nil
}

// wrote says that the transaction has changed something of which nothing is in memory.
func (c *change) wrote() { c.undo = append(c.undo, func() {}) }
