package wire

import (
	"bytes"
	"errors"
	"io"
)

// InboxSize is what an inbox has room for, but for a head that is larger.
const InboxSize = 4 << 10

// Inbox buffers what comes from a client.
type Inbox struct {
	from  io.Reader
	buf   []byte
	r, w  int     // what is there: buf[r:w]
	most  int     // to which buf may grow
	grown *Budget // what is more than inboxSize comes from it
}

// errNoRoom says that there is no memory for a large head.
var errNoRoom = errors.New("too many large heads are being read")

// Begin makes it what comes from there, within most bytes at once. The buffer has inboxSize.
func (b *Inbox) Begin(from io.Reader, buf []byte, most int, grown *Budget) {
	*b = Inbox{from: from, buf: buf, most: most, grown: grown}
}

// Len is how many bytes are there.
func (b *Inbox) Len() int { return b.w - b.r }

// bytes is what is there. It is valid until the next call.
func (b *Inbox) bytes() []byte { return b.buf[b.r:b.w] }

// skip takes n bytes that are there.
func (b *Inbox) skip(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// fill reads more, once. The caller bounds how much is there.
func (b *Inbox) fill() error {
	if b.w == len(b.buf) {
		if b.r > 0 {
			b.w = copy(b.buf, b.buf[b.r:b.w])
			b.r = 0
		} else if err := b.grow(); err != nil {
			return err
		}
	}
	n, err := b.from.Read(b.buf[b.w:])
	b.w += n
	switch {
	case n > 0:
		return nil // an error comes again
	case err == nil:
		return io.ErrNoProgress
	}
	return err
}

// grow makes room for more of a large head.
func (b *Inbox) grow() error {
	size := min(2*len(b.buf), b.most)
	if more := size - len(b.buf); more <= 0 || !b.grown.Take(more) {
		return errNoRoom
	}
	buf := make([]byte, size)
	copy(buf, b.buf)
	b.buf = buf
	return nil
}

// Shrink gives back what a large head needed.
func (b *Inbox) Shrink() {
	if len(b.buf) > InboxSize && b.Len() <= InboxSize {
		buf := make([]byte, InboxSize)
		n := copy(buf, b.bytes())
		b.grown.Give(len(b.buf) - InboxSize)
		b.buf, b.r, b.w = buf, 0, n
	}
}

// End gives back all memory.
func (b *Inbox) End() {
	if more := len(b.buf) - InboxSize; more > 0 {
		b.grown.Give(more)
	}
	b.buf, b.r, b.w = nil, 0, 0
}

// Read takes what is there, or else reads.
func (b *Inbox) Read(p []byte) (int, error) {
	if b.Len() == 0 {
		if len(p) >= len(b.buf) {
			return b.from.Read(p)
		}
		if err := b.fill(); err != nil || len(p) == 0 {
			return 0, err
		}
	}
	n := copy(p, b.bytes())
	b.skip(n)
	return n, nil
}

var errLine = errors.New("a line is too long, or does not end as it should")

// line takes a line of at most limit bytes and returns it without its end, valid until the
// next call. When it fails nothing was taken.
func (b *Inbox) line(limit int) ([]byte, error) {
	for seen := 0; ; {
		have := b.bytes()
		if n := bytes.IndexByte(have[seen:], '\n'); n >= 0 {
			n += seen
			if n > limit || n == 0 || have[n-1] != '\r' || bytes.IndexByte(have[:n-1], '\r') >= 0 {
				return nil, errLine
			}
			b.skip(n + 1)
			return have[:n-1], nil
		}
		if seen = len(have); seen > limit {
			return nil, errLine
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
}
