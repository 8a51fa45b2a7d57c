package segment_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"

	"mvm"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/testenv/quick"
)

// TestSpaceStaysBelowTwice: however many pages of a segment die, what the segments hold stays
// below twice the live pages, and a segment that is less than half dead is not written again.
func TestSpaceStaysBelowTwice(t *testing.T) {
	const pages = 40
	for dead := range pages + 1 {
		i := newInstance(t, quick.Dir(t), nil, 64)
		mem := make(memory, 64*segment.Page)
		for n := range pages {
			mem.fill(n, 7)
		}
		first := must(i.place().Save(t.Context(), i.sleep(mem, nil)))(t)
		for n := range dead {
			clear(mem.page(n * 7 % pages))
		}
		p := i.place()
		saved := must(p.Save(t.Context(), i.sleep(mem, first.Map)))(t)
		m := i.wantWake(t, "slept", p, mem)
		if live := pages - dead; m.Live() != live || live > 0 && m.Held() >= 2*live || live == 0 && m.Held() != 0 {
			t.Errorf("%d of %d pages died: %d are live, and %d held", dead, pages, m.Live(), m.Held())
		}
		if again := saved.Moved > 0; again != (dead >= pages/2 && dead < pages) {
			t.Errorf("%d of %d pages died: %d written again", dead, pages, saved.Moved)
		}
		i.close()
	}
}

// TestOnlyWhatDiffersIsWritten: of pages that the driver lists, those that equal the base or
// the snapshot before take no space.
func TestOnlyWhatDiffersIsWritten(t *testing.T) {
	i, mem, p, _ := slept(t)
	prev := i.wantWake(t, "whole", p, mem)
	all := []segment.Run{{Page: 0, Count: 150}}
	memory(mem).fill(60, 9)
	s := i.sleep(mem, prev)
	s.Changed = all
	saved := must(i.place().Save(t.Context(), s))(t)
	if saved.Written != 1 || saved.Kept != 94 || saved.Zero != 5-zerosOf(mem, i.zero) || saved.Dropped != 150-95-saved.Zero || saved.Moved != 0 {
		t.Errorf("saved %+v", saved)
	}
	// A guest that is again as it began has nothing but its devices.
	s = i.sleep(i.zero, saved.Map)
	s.Changed = all
	q := i.place()
	if saved = must(q.Save(t.Context(), s))(t); saved.Segment != "" || saved.Map.Held() != 0 || saved.Dropped != 150 {
		t.Errorf("saved %+v", saved)
	}
	i.wantWake(t, "as it began", q, i.zero)
}

// zerosOf counts the pages that are zero in both.
func zerosOf(mem, base memory) (n int) {
	zero := make([]byte, segment.Page)
	for page := 90; page < 95; page++ {
		if bytes.Equal(mem.page(page), zero) && bytes.Equal(base.page(page), zero) {
			n++
		}
	}
	return n
}

// calledOff is a memory during whose first read the sleep is called off.
type calledOff struct {
	memory
	cancel context.CancelFunc
	reads  atomic.Int32
}

func (c *calledOff) Read(ctx context.Context, pieces []segment.Piece) error {
	c.cancel()
	c.reads.Add(1)
	return c.memory.Read(ctx, pieces)
}

// TestCalledOffAtOnce: a sleep or a restore that is called off reads no more of a large memory.
func TestCalledOffAtOnce(t *testing.T) {
	i := newInstance(t, quick.Dir(t), nil, 20_000)
	t.Cleanup(i.close)
	mem := bytes.Clone(i.zero)
	for n := range 20_000 {
		mem[n*segment.Page] = 1
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, m := i.sleep(mem, nil), &calledOff{memory: mem, cancel: cancel}
	s.Memory = m
	if _, err := i.place().Save(ctx, s); !mvm.IsKind(err, mvm.KindCanceled) || m.reads.Load() > int32(i.workers) {
		t.Errorf("%v after %d reads", err, m.reads.Load())
	}
	i.wantSegments(t, "called off")
	p := i.place()
	must(p.Save(t.Context(), i.sleep(mem, nil)))(t)
	snap := must(p.Load(i.base.Digest, 20_000))(t)
	defer snap.Close()
	var writes atomic.Int32
	ctx, cancel = context.WithCancel(t.Context())
	err := snap.Inject(ctx, func(context.Context, []segment.Piece) error {
		cancel()
		writes.Add(1)
		return nil
	})
	if !mvm.IsKind(err, mvm.KindCanceled) || writes.Load() > int32(i.workers) {
		t.Errorf("%v after %d writes", err, writes.Load())
	}
}

// TestMapsThatContradictThemselves: a map that was sealed with the right key and makes no sense
// is damaged.
func TestMapsThatContradictThemselves(t *testing.T) {
	i, mem, p, _ := slept(t)
	m, content := i.wantWake(t, "whole", p, mem), contentOf(t, p)
	const head = 116
	extents := head + 20*len(m.Segments)
	put := func(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	field := func(e, n int) int { return extents + 16*e + 4*n } // page, count, segment, ordinal
	last := len(m.Extents) - 1
	zero := 0
	for n, e := range m.Extents {
		if e.Segment == segment.Zero {
			zero = n
		}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"extents overlap":           func(b []byte) []byte { put(b, field(1, 0), m.Extents[1].Page-1); return b },
		"an extent is empty":        func(b []byte) []byte { put(b, field(0, 1), 0); return b },
		"beyond the memory":         func(b []byte) []byte { put(b, field(last, 0), 149); return b },
		"around the end of numbers": func(b []byte) []byte { put(b, field(last, 1), 1<<32-1); return b },
		"beyond a segment":          func(b []byte) []byte { put(b, field(last, 3), 1); return b },
		"an ordinal that wraps":     func(b []byte) []byte { put(b, field(last, 3), 1<<32-2); return b },
		"no such segment":           func(b []byte) []byte { put(b, field(0, 2), 3); return b },
		"a negative segment":        func(b []byte) []byte { put(b, field(0, 2), 1<<32-2); return b },
		"zeros at a place":          func(b []byte) []byte { put(b, field(zero, 3), 1); return b },
		"an unused segment":         func(b []byte) []byte { put(b, field(0, 2), 1); return b },
		"a segment twice":           func(b []byte) []byte { copy(b[head:], b[head+20:head+36]); return b },
		"an empty segment":          func(b []byte) []byte { put(b, head+16, 0); return b },
		"a segment that is larger":  func(b []byte) []byte { put(b, head+16, m.Segments[0].Pages+1); return b },
		"sums are missing":          func(b []byte) []byte { return b[:len(b)-16] },
		"sums of nothing":           func(b []byte) []byte { return append(b, make([]byte, 16)...) },
		"more segments than bytes":  func(b []byte) []byte { put(b, 108, 1<<31); return b },
		"more extents than bytes":   func(b []byte) []byte { put(b, 112, 1<<32-1); return b },
		"a memory beyond all":       func(b []byte) []byte { put(b, 104, 1<<32-1); return b },
		"another version":           func(b []byte) []byte { b[7]++; return b },
		"nothing":                   func(b []byte) []byte { return nil },
		"an extent in two parts": func(b []byte) []byte {
			put(b, 112, uint32(len(m.Extents))+1)
			put(b, field(0, 1), m.Extents[0].Count-1)
			e := m.Extents[0]
			rest := make([]byte, 16)
			for n, v := range []uint32{e.Page + e.Count - 1, 1, 0, e.Ordinal + e.Count - 1} {
				put(rest, 4*n, v)
			}
			return append(b[:extents+16:extents+16], append(rest, b[extents+16:]...)...)
		},
		"two pages in one place": func(b []byte) []byte {
			e := m.Extents[0] // its last page apart, at the place of its first
			put(b, 112, uint32(len(m.Extents))+1)
			put(b, field(0, 1), e.Count-1)
			rest := make([]byte, 16)
			for n, v := range []uint32{e.Page + e.Count - 1, 1, 0, e.Ordinal} {
				put(rest, 4*n, v)
			}
			return append(b[:extents+16:extents+16], append(rest, b[extents+16:]...)...)
		},
	} {
		sealMap(t, p, change(bytes.Clone(content)))
		if _, _, err := i.wake(p); sealed.ReasonOf(err) != sealed.Damaged || !strings.Contains(err.Error(), p.Own.Path()+"/map") && name != "a segment that is larger" {
			t.Errorf("%s: %v, want a damaged map", name, err)
		}
	}
	sealMap(t, p, content)
	i.wantWake(t, "as it was", p, mem)
}
