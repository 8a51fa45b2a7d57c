package inbox

import (
	"errors"
	"hash/crc32"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
)

// op is one change. An error of fn that is an mvm.Error refuses this change alone, and comes
// before fn has changed anything; any other fails the whole transaction. Changes that come while another is written are written together, with
// one sync for all.
type op struct {
	fn   func(c *change) error
	room int // bytes that it may add to the file
	err  error
	done chan struct{}
}

// change is the transaction that ops work in. What they change in memory is undone when the
// transaction fails.
type change struct {
	b    *Inbox
	tx   *bbolt.Tx
	now  time.Time
	undo []func() // empty: nothing has changed
}

// errNothing ends a transaction that changes nothing, so that nothing is written.
var errNothing = errors.New("nothing to write")

// do makes the change and returns when it is on the disk.
func (b *Inbox) do(room int, fn func(c *change) error) error {
	o := &op{fn: fn, room: room, done: make(chan struct{})}
	b.queueMu.Lock()
	if b.closed {
		b.queueMu.Unlock()
		return mvm.Errorf(mvm.KindUnavailable, "change the inbox: %w", errClosed)
	}
	b.queue = append(b.queue, o)
	if !b.running {
		b.running = true
		b.group.Go(b.run)
	}
	b.queueMu.Unlock()
	<-o.done
	return o.err
}

// run commits until nothing is queued.
func (b *Inbox) run() {
	for {
		b.queueMu.Lock()
		batch := b.queue
		b.queue = nil
		b.running = len(batch) > 0
		b.queueMu.Unlock()
		if len(batch) == 0 {
			return
		}
		b.mu.Lock()
		before := b.damage
		b.commit(batch)
		after := b.damage
		b.mu.Unlock()
		if after != before && b.tell != nil {
			b.tell(after)
		}
		for _, o := range batch {
			close(o.done)
		}
	}
}

// commit writes the changes in one transaction. b.mu is held.
func (b *Inbox) commit(batch []*op) {
	if b.db == nil {
		if err := b.open(); err != nil {
			fail(batch, err)
			return
		}
	}
	c := &change{b: b, now: b.now()}
	err := b.guarded(func() error {
		return b.db.Update(func(tx *bbolt.Tx) error {
			c.tx = tx
			for _, o := range batch {
				var refused *mvm.Error
				if o.err = b.reserve(tx, o.room); o.err == nil {
					o.err = o.fn(c)
				}
				if o.err != nil && !errors.As(o.err, &refused) {
					return o.err // it may have been half done
				}
			}
			if len(c.undo) == 0 {
				return errNothing
			}
			return nil
		})
	})
	if err == nil || errors.Is(err, errNothing) {
		return
	}
	for _, undo := range slices.Backward(c.undo) {
		undo()
	}
	fail(batch, b.failed(err))
}

func fail(batch []*op, err error) {
	for _, o := range batch {
		o.err = err
	}
}

// failed says why a transaction failed. After anything but a full disk nobody knows what
// the file has; it is opened again. b.mu is held.
func (b *Inbox) failed(err error) error {
	if full(err) {
		return diskFull(b.path, err)
	}
	b.log.Error("inbox not written", "file", b.path, "error", err)
	if closeErr := b.close(); closeErr != nil {
		b.log.Warn("close the inbox", "file", b.path, "error", closeErr)
	}
	return mvm.Errorf(mvm.KindInternal, "write inbox %s: %w", b.path, err)
}

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func diskFull(path string, err error) error {
	return mvm.Errorf(mvm.KindUnavailable, "write inbox %s: %w", path, err).
		WithFix("free space on the gateway's data disk, or give its pool a larger data_disk_mib")
}

// put records a new entry with its body.
func (c *change) put(e Entry, body []byte) error {
	if err := bucket(c.tx, bodies).Put(number(e.Number), body); err != nil {
		return err
	}
	return c.write(e, crc32.Checksum(body, castagnoli))
}

// update records another head of an entry.
func (c *change) update(e Entry) error {
	head := bucket(c.tx, heads).Get(number(e.Number))
	if len(head) < headSums {
		return errDamaged
	}
	return c.write(e, bodySum(head))
}

func (c *change) write(e Entry, bodySum uint32) error {
	head, err := encode(e, bodySum)
	if err != nil {
		return err
	}
	c.set(e.Number, &e)
	return bucket(c.tx, heads).Put(number(e.Number), head)
}

// remove takes the entry out, with its body.
func (c *change) remove(e Entry) error {
	c.set(e.Number, nil)
	return errors.Join(bucket(c.tx, heads).Delete(number(e.Number)), bucket(c.tx, bodies).Delete(number(e.Number)))
}

// set replaces what is known of a number in memory, until the transaction fails.
func (c *change) set(n int64, e *Entry) {
	b, was := c.b, c.b.entries[n]
	b.count(was, -1)
	b.count(e, 1)
	b.keep(n, e)
	c.undo = append(c.undo, func() {
		b.count(e, -1)
		b.count(was, 1)
		b.keep(n, was)
	})
}

func (b *Inbox) keep(n int64, e *Entry) {
	if e == nil {
		delete(b.entries, n)
		return
	}
	b.entries[n] = e
}

// count adds the entry to the sums, or takes it out.
func (b *Inbox) count(e *Entry, by int) {
	switch {
	case e == nil:
	case e.Aside:
		b.aside.add(e, by)
	default:
		b.waiting.add(e, by)
		k := chatKey{e.Channel, e.Chat}
		t := b.chats[k]
		if t.add(e, by); t.n == 0 {
			delete(b.chats, k)
			return
		}
		b.chats[k] = t
	}
}

func (t *tally) add(e *Entry, by int) {
	t.n += by
	t.bytes += int64(by * e.Size)
}
