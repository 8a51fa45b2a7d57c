package gateway

import "sync/atomic"

// budget bounds bytes that are buffered at once.
type budget struct{ free atomic.Int64 }

// set makes it n bytes, of which none is taken.
func (b *budget) set(n int) { b.free.Store(int64(n)) }

// left is what of it is not taken.
func (b *budget) left() int { return int(b.free.Load()) }

// take takes n bytes, and reports whether they were there.
func (b *budget) take(n int) bool {
	if b.free.Add(-int64(n)) >= 0 {
		return true
	}
	b.free.Add(int64(n))
	return false
}

// give gives n bytes back.
func (b *budget) give(n int) { b.free.Add(int64(n)) }
