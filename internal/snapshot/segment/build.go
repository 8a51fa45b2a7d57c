package segment

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// maxSegments is how many segments a map has at most: a restore opens all of them. What a
// sleep finds beyond it, it writes again, the smallest segments first and down to half.
const maxSegments = 32

// located are the extents of a map, each with the place of its first sum.
func (m *Map) located() []located {
	out, sum := make([]located, len(m.Extents)), 0
	for i, e := range m.Extents {
		out[i] = located{e, sum}
		if e.Segment != Zero {
			sum += int(e.Count)
		}
	}
	return out
}

// sumOf is the place of a page's sum.
func (l located) sumOf(page uint32) int { return l.sum + int(page-l.Page) }

// cursor finds pages in the previous map. Each page it is asked for comes after the one before.
type cursor struct {
	list []located
}

// from is a cursor for the page and those behind it.
func (v *saver) from(page uint32) *cursor {
	return &cursor{v.prev[sort.Search(len(v.prev), func(i int) bool { return v.prev[i].end() > page }):]}
}

func (c *cursor) at(page uint32) (l located, known bool) {
	for len(c.list) > 0 && c.list[0].end() <= page {
		c.list = c.list[1:]
	}
	if len(c.list) == 0 || c.list[0].Page > page {
		return located{}, false
	}
	return c.list[0], true
}

// each calls fn with each page that was listed or is in the previous snapshot, in order, and
// what becomes of it. n is its number among the listed ones, -1 where it was not.
func (v *saver) each(fn func(page uint32, is verdict, n int)) {
	runs, n := v.dirty.runs, 0
	// listed calls fn with the listed pages before the limit, and says whether that is one.
	listed := func(limit uint32) bool {
		for len(runs) > 0 && runs[0].Page < limit {
			r := runs[0]
			end := min(r.Page+r.Count, limit)
			for page := r.Page; page < end; page++ {
				fn(page, v.dirty.is[n], n)
				n++
			}
			if runs[0] = (Run{end, r.Page + r.Count - end}); runs[0].Count == 0 {
				runs = runs[1:]
			}
		}
		return len(runs) > 0 && runs[0].Page == limit
	}
	runs = slices.Clone(runs)
	for _, l := range v.prev {
		for page := l.Page; page < l.end(); page++ {
			switch isListed := listed(page); {
			case isListed: // its turn comes
			case v.Since == SinceBase:
				fn(page, drop, -1)
			case l.Segment == Zero:
				fn(page, zero, -1)
			default:
				fn(page, keep, -1)
			}
		}
	}
	listed(math.MaxUint32)
}

// freed says which segments of the previous map are written again: those that are more than
// half dead, and the smallest where there are too many.
func (v *saver) freed() []bool {
	live := make([]uint32, len(v.Previous.Segments))
	c := v.from(0)
	v.each(func(page uint32, is verdict, _ int) {
		if is == keep {
			l, _ := c.at(page)
			live[l.Segment]++
		}
	})
	free, rest := make([]bool, len(live)), []int(nil)
	for i, s := range v.Previous.Segments {
		free[i] = live[i]*2 <= s.Pages
		if !free[i] {
			rest = append(rest, i)
		}
	}
	if len(rest) < maxSegments {
		return free
	}
	slices.SortStableFunc(rest, func(x, y int) int { return cmp.Compare(live[x], live[y]) })
	for _, i := range rest[:len(rest)-maxSegments/2] {
		free[i] = true
	}
	return free
}

// pagesOf are the pages that are kept in segments to be freed.
func (v *saver) pagesOf(free []bool) (runs []Run) {
	c := v.from(0)
	v.each(func(page uint32, is verdict, _ int) {
		if is != keep {
			return
		}
		if l, _ := c.at(page); !free[l.Segment] {
			return
		}
		if n := len(runs); n > 0 && runs[n-1].Page+runs[n-1].Count == page {
			runs[n-1].Count++
		} else {
			runs = append(runs, Run{page, 1})
		}
	})
	return runs
}

// build makes the map.
func (v *saver) build(free []bool) {
	m, number := v.out.Map, make([]int, len(free))
	for i, s := range v.Previous.Segments {
		if number[i] = len(m.Segments); !free[i] {
			m.Segments = append(m.Segments, s)
		}
	}
	own, c := len(m.Segments), v.from(0)
	next, first := uint32(0), uint32(v.dirty.count(write))
	moved, total := first, first+uint32(len(v.moved.is))
	v.each(func(page uint32, is verdict, n int) {
		switch is {
		case drop:
			v.out.Dropped++
		case zero:
			m.add(Extent{page, 1, Zero, 0})
			v.out.Zero++
		case write:
			m.add(Extent{page, 1, own, next}, v.dirty.sums[n])
			next++
			v.out.Written++
		case keep:
			l, _ := c.at(page)
			if free[l.Segment] {
				m.add(Extent{page, 1, own, moved}, v.moved.sums[moved-first])
				moved++
				v.out.Moved++
				return
			}
			m.add(Extent{page, 1, number[l.Segment], l.Ordinal + page - l.Page}, v.Previous.sums[l.sumOf(page)])
			v.out.Kept++
		}
	})
	if total > 0 {
		m.Segments = append(m.Segments, Part{v.out.Segment, total})
	}
}
