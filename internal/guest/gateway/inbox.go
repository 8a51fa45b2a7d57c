package gateway

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// inboxSize is what an inbox has room for, but for a head that is larger.
const inboxSize = 4 << 10

// inbox buffers what comes from a client.
type inbox struct {
	from io.Reader
	buf  []byte
	r, w int // what is there: buf[r:w]
}

// spaces is the memory that HTTP connections need while they are served: for an inbox, and
// for heads that are sent.
var spaces = sync.Pool{New: func() any { return new([inboxSize + outSize]byte) }}

// len is how many bytes are there.
func (b *inbox) len() int { return b.w - b.r }

// bytes is what is there. It is valid until the next call.
func (b *inbox) bytes() []byte { return b.buf[b.r:b.w] }

// skip takes n bytes that are there.
func (b *inbox) skip(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// fill reads more, once. The caller bounds how much is there.
func (b *inbox) fill() error {
	if b.w == len(b.buf) {
		if b.r > 0 {
			b.w = copy(b.buf, b.buf[b.r:b.w])
			b.r = 0
		} else {
			b.buf = append(b.buf, make([]byte, len(b.buf))...)
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

// shrink gives back what a large head needed.
func (b *inbox) shrink() {
	if len(b.buf) > inboxSize && b.len() <= inboxSize {
		buf := make([]byte, inboxSize)
		n := copy(buf, b.bytes())
		b.buf, b.r, b.w = buf, 0, n
	}
}

// Read takes what is there, or else reads.
func (b *inbox) Read(p []byte) (int, error) {
	if b.len() == 0 {
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
func (b *inbox) line(limit int) ([]byte, error) {
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
