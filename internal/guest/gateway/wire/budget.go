package wire

import "sync/atomic"

// Budget bounds bytes that are buffered at once.
type Budget struct{ free atomic.Int64 }

// Set makes it n bytes, of which none is taken.
func (b *Budget) Set(n int) { b.free.Store(int64(n)) }

// Left is what of it is not taken.
func (b *Budget) Left() int { return int(b.free.Load()) }

// Take takes n bytes, and reports whether they were there.
func (b *Budget) Take(n int) bool {
	if b.free.Add(-int64(n)) >= 0 {
		return true
	}
	b.free.Add(int64(n))
	return false
}

// Give gives n bytes back.
func (b *Budget) Give(n int) { b.free.Add(int64(n)) }
