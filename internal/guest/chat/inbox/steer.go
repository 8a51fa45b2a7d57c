package inbox

import (
	"bytes"
	"hash/crc32"
	"strings"

	"go.etcd.io/bbolt"

	"mvm"
)

// Body returns the message's bytes. KindInternal: they are damaged on the disk.
func (b *Inbox) Body(n int64) (body []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[n]
	if e == nil {
		return nil, notKept(n)
	}
	if b.db == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read message %d: %w", n, errClosed)
	}
	err = b.guarded(func() error {
		return b.db.View(func(tx *bbolt.Tx) error {
			body = bytes.Clone(bucket(tx, bodies).Get(number(n)))
			sum := bucket(tx, heads).Get(number(n))
			if len(body) != e.Size || len(sum) < headSums || crc32.Checksum(body, castagnoli) != bodySum(sum) {
				return errDamaged
			}
			return nil
		})
	})
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "read message %d: %w", n, err)
	}
	return body, nil
}

// Done forgets a message that is delivered. Its id stays known for some time.
func (b *Inbox) Done(n int64) error { return b.end(n) }

// Drop gives up a message.
func (b *Inbox) Drop(n int64) error { return b.end(n) }

func (b *Inbox) end(n int64) error {
	return b.of(n, func(c *change, e Entry) error {
		if err := c.leave(e); err != nil {
			return err
		}
		return c.forget()
	})
}

// leave takes the entry out, and keeps its id.
func (c *change) leave(e Entry) error {
	if err := c.remove(e); err != nil {
		return err
	}
	return c.remember(e)
}

// of makes a change of one entry.
func (b *Inbox) of(n int64, fn func(c *change, e Entry) error) error {
	return b.do(0, func(c *change) error {
		e := b.entries[n]
		if e == nil {
			return notKept(n)
		}
		return fn(c, *e)
	})
}

// Failed records that a try to deliver the message failed.
func (b *Inbox) Failed(n int64, refusals, failures int, why string) error {
	return b.of(n, func(c *change, e Entry) error {
		e.Refusals, e.Errors, e.Why, e.Changed = refusals, failures, clip(why), c.now
		return c.update(e)
	})
}

// SetAside keeps the message and has it delivered no more. Where too many are set aside the
// oldest goes.
func (b *Inbox) SetAside(n int64, why string) error {
	return b.of(n, func(c *change, e Entry) error {
		e.Aside, e.Why, e.Changed = true, clip(why), c.now
		if err := c.update(e); err != nil {
			return err
		}
		for b.aside.n > b.lim.Aside || b.aside.n > 1 && b.aside.bytes > b.lim.AsideBytes {
			oldest := b.oldestAside()
			b.log.Warn("message given up: too many are set aside", "channel", oldest.Channel, "message", oldest.Number)
			if err := c.leave(oldest); err != nil {
				return err
			}
		}
		return nil
	})
}

// oldestAside is the one that was set aside first.
func (b *Inbox) oldestAside() (oldest Entry) {
	for _, e := range b.entries {
		if e.Aside && (oldest.Number == 0 || e.Changed.Before(oldest.Changed) || e.Changed.Equal(oldest.Changed) && e.Number < oldest.Number) {
			oldest = *e
		}
	}
	return oldest
}

// Retry has a message that was set aside wait again, as if it had just come.
func (b *Inbox) Retry(n int64) error {
	return b.of(n, func(c *change, e Entry) error {
		if e.Aside && (b.waiting.n >= b.lim.Messages || b.waiting.bytes+int64(e.Size) > b.lim.Bytes) {
			return mvm.Errorf(mvm.KindQuota, "retry message %d: %d messages wait already", n, b.waiting.n)
		}
		e.Aside, e.Refusals, e.Errors, e.Received, e.Changed = false, 0, 0, c.now, c.now
		return c.update(e)
	})
}

// maxWhy bounds the reason that is kept with a message.
const maxWhy = 300

func clip(s string) string {
	if len(s) > maxWhy {
		return strings.ToValidUTF8(s[:maxWhy], "") // not half a character
	}
	return s
}
