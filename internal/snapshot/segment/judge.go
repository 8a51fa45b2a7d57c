package segment

import (
	"bytes"
	"context"
	"io"

	"mvm/internal/snapshot/sealed"
)

// read reads the batch's pages.
func (v *saver) read(ctx context.Context, bt batch, into []byte, b *buffers) error {
	b.pieces = b.pieces[:0]
	for _, r := range bt.runs {
		n := int(r.Count) * Page
		b.pieces, into = append(b.pieces, Piece{r.Page, into[:n]}), into[n:]
	}
	return v.Memory.Read(ctx, b.pieces)
}

// judge decides what becomes of the batch's pages. What is as it was in the previous snapshot
// differs from the base as it did then: only the other pages are compared with the base.
func (v *saver) judge(s *sweepOf, bt batch, pages, base []byte) error {
	c, n := v.from(bt.runs[0].Page), bt.n
	for _, r := range bt.runs {
		first, content := n, pages
		for page := r.Page; page < r.Page+r.Count; page++ {
			s.is[n], s.sums[n] = v.judgePage(c, page, pages[:Page], s.again)
			n, pages = n+1, pages[Page:]
		}
		if s.again {
			continue
		}
		if err := v.compare(r.Page, s.is[first:n], content, base); err != nil {
			return err
		}
	}
	return nil
}

// judgePage decides about a page but for the base.
func (v *saver) judgePage(c *cursor, page uint32, content []byte, again bool) (verdict, Sum) {
	if !again && content[0] == 0 && bytes.Equal(content[1:], content[:Page-1]) {
		return zero, Sum{}
	}
	sum := v.sum.sum(page, content)
	if prev, known := c.at(page); !again && known && prev.Segment != Zero && v.Previous.sums[prev.sumOf(page)] == sum {
		return keep, sum
	}
	return write, sum
}

// compare drops of the pages that follow each other those that equal the base.
func (v *saver) compare(page uint32, is []verdict, content, base []byte) error {
	for i := 0; i < len(is); {
		end := i
		for end < len(is) && is[end] != keep {
			end++
		}
		if end == i {
			i++
			continue
		}
		if err := v.readBase(page+uint32(i), base[:(end-i)*Page]); err != nil {
			return err
		}
		for k := i; k < end; k++ {
			if v.Base.Content == nil && is[k] == zero || v.Base.Content != nil && bytes.Equal(content[k*Page:][:Page], base[(k-i)*Page:][:Page]) {
				is[k] = drop
			}
		}
		i = end
	}
	return nil
}

// readBase reads pages of the base, unless that is zeros.
func (v *saver) readBase(page uint32, into []byte) error {
	if v.Base.Content == nil {
		return nil
	}
	n, err := v.Base.Content.ReadAt(into, int64(page)*Page)
	if n == len(into) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return sealed.Failed("read", "the base", err)
}

// gather moves the batch's pages that are to be written to the front, and returns how many
// they are.
func (s *sweepOf) gather(bt batch, pages []byte) (n int) {
	for i, is := range s.is[bt.n : bt.n+bt.pages()] {
		if is != write {
			continue
		}
		if n != i {
			copy(pages[n*Page:][:Page], pages[i*Page:][:Page])
		}
		n++
	}
	return n
}
