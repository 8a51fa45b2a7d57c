package segment

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mvm/internal/snapshot/sealed"
)

// perBatch is how many pages a goroutine has at a time, and chunkPages how many a chunk has.
const (
	perBatch   = 256
	chunkPages = sealed.Chunk / Page
)

// verdict is what becomes of a page.
type verdict byte

const (
	drop  verdict = iota // it equals the base
	zero                 // it is zero
	keep                 // it is in a segment as it is
	write                // it goes to the new segment
)

// sweepOf is a sweep over pages, and what became of each.
type sweepOf struct {
	runs    []Run
	batches []batch
	again   bool // they are all written, though none of them has changed
	is      []verdict
	sums    []Sum
}

// batch is a part of a sweep. n is the number of its first page among all.
type batch struct {
	n    int
	runs []Run
}

func (b batch) pages() (sum int) {
	for _, r := range b.runs {
		sum += int(r.Count)
	}
	return sum
}

func newSweepOf(runs []Run, again bool) *sweepOf {
	s := &sweepOf{runs: runs, again: again}
	n, room := 0, uint32(0)
	for _, r := range runs {
		for r.Count > 0 {
			if room == 0 {
				s.batches, room = append(s.batches, batch{n: n}), perBatch
			}
			c := min(r.Count, room)
			last := &s.batches[len(s.batches)-1]
			last.runs = append(last.runs, Run{r.Page, c})
			r, room, n = Run{r.Page + c, r.Count - c}, room-c, n+int(c)
		}
	}
	s.is, s.sums = make([]verdict, n), make([]Sum, n)
	return s
}

// count is how many pages there are of a kind.
func (s *sweepOf) count(is verdict) (n int) {
	for _, v := range s.is {
		if v == is {
			n++
		}
	}
	return n
}

// handoff is what a batch leaves to the next: pages that did not fill a chunk, and the number
// of the chunk that they begin.
type handoff struct {
	carry []byte
	chunk int64
}

// buffers are what a goroutine works with. Before the pages is room for a carry.
type buffers struct {
	room, base, scratch []byte
	pieces              []Piece
}

// stream reads the pages of a sweep, judges them, and writes to the segment those that belong
// there, in order. Batches are read, judged, sealed and written beside each other; only the
// carry goes from one to the next.
func (v *saver) stream(ctx context.Context, s *sweepOf, at handoff) (handoff, error) {
	turns := make([]chan handoff, len(s.batches)+1)
	for i := range turns {
		turns[i] = make(chan handoff, 1)
	}
	turns[0] <- at
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range min(v.p.Workers, len(s.batches)) {
		g.Go(func() error {
			b := buffers{room: make([]byte, sealed.Chunk+perBatch*Page), base: make([]byte, perBatch*Page)}
			for {
				n := int(next.Add(1)) - 1
				if n >= len(s.batches) {
					return nil
				}
				if err := v.batch(gctx, s, s.batches[n], turns[n], turns[n+1], &b); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return handoff{}, err
	}
	return <-turns[len(s.batches)], nil
}

func (v *saver) batch(ctx context.Context, s *sweepOf, bt batch, turn <-chan handoff, after chan<- handoff, b *buffers) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	pages := b.room[sealed.Chunk:][:bt.pages()*Page]
	if err := v.read(ctx, bt, pages, b); err != nil {
		return err
	}
	if err := v.judge(s, bt, pages, b.base); err != nil {
		return err
	}
	n := s.gather(bt, pages)
	var h handoff
	select {
	case h = <-turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	all := b.room[sealed.Chunk-len(h.carry) : sealed.Chunk+n*Page]
	copy(all, h.carry)
	full := len(all) / sealed.Chunk
	first := h.chunk
	h = handoff{append(h.carry[:0], all[full*sealed.Chunk:]...), first + int64(full)}
	if full > 0 {
		if err := v.begin(); err != nil {
			return err
		}
	}
	after <- h // has room for it
	if full == 0 {
		return nil
	}
	var err error
	b.scratch, err = v.pages.w.WriteChunks(first, all[:full*sealed.Chunk], b.scratch)
	return err
}
