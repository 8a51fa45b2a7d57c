package segment_test

import (
	"bytes"
	"os"
	"testing"

	"mvm"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
)

// sealMap seals bytes as the map of a snapshot.
func sealMap(t testing.TB, p segment.Place, content []byte) {
	t.Helper()
	w := must(sealed.Create(p.Own, "map", p.Key, sealed.Meta{Kind: sealed.Map, Bound: p.ID + "/map", Limit: 1 << 20}))(t)
	n := must(w.Fill(bytes.NewReader(content)))(t)
	ok(t, w.Commit(n))
}

// contentOf is what is sealed as the map.
func contentOf(t testing.TB, p segment.Place) []byte {
	t.Helper()
	return must(sealed.Read(p.Own, "map", p.Key, sealed.Meta{Kind: sealed.Map, Bound: p.ID + "/map", Limit: 1 << 20}))(t)
}

// FuzzMap: whatever is sealed as a map, it is refused as damaged or contradicts itself in
// nothing.
func FuzzMap(f *testing.F) {
	i, _, p, older := slept(f)
	for _, q := range []segment.Place{p, older} {
		b := contentOf(f, q)
		f.Add(b)
		for _, at := range []int{3, 104, 108, 112, 116, 132, len(b) - 1} { // a change in each part
			c := bytes.Clone(b)
			c[at]++
			f.Add(c)
		}
		f.Add(b[:len(b)-16])
		f.Add(b[:116])
	}
	f.Add([]byte("mvm map\x01"))
	pages, q := uint32(i.zero.pages()), i.placeOf("s-0000f022")
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		sealMap(t, q, b)
		m, err := q.ReadMap(pages)
		if err != nil {
			if r := sealed.ReasonOf(err); r != sealed.Damaged && r != sealed.OtherMemory || !mvm.IsKind(err, mvm.KindState) {
				t.Fatalf("%q: %v", r, err)
			}
			return
		}
		wantSound(t, m, pages)
	})
}

// wantSound fails the test where the map contradicts itself.
func wantSound(t *testing.T, m *segment.Map, pages uint32) {
	t.Helper()
	end, live := uint64(0), 0
	places := map[[2]int]bool{}
	for _, e := range m.Extents {
		if uint64(e.Page) < end || e.Count == 0 {
			t.Fatal("extents overlap", m.Extents)
		}
		if end = uint64(e.Page) + uint64(e.Count); end > uint64(pages) {
			t.Fatal("beyond the memory", e)
		}
		if e.Segment == segment.Zero {
			continue
		}
		live += int(e.Count)
		for n := range e.Count {
			at := [2]int{e.Segment, int(e.Ordinal + n)}
			if places[at] || at[1] >= int(m.Segments[e.Segment].Pages) {
				t.Fatal("place", at, "of", m.Segments)
			}
			places[at] = true
		}
	}
	if live != m.Live() || m.Held() < live {
		t.Fatal(live, "pages are live, and the map says", m.Live(), m.Held())
	}
}

// FuzzFile: whatever is in the place of a segment, a wake restores the memory or says what is
// wrong with the snapshot.
func FuzzFile(f *testing.F) {
	i, mem, p, _ := slept(f)
	m := i.wantWake(f, "whole", p, mem)
	path := i.segments.Path() + "/" + m.Segments[1].Name // packed, and small
	whole := must(os.ReadFile(path))(f)
	// Of the file the fuzzer has the heads and the end.
	head := append(bytes.Clone(whole[:96]), whole[4096:4096+96]...)
	f.Add(head, whole[len(whole)-64:], uint16(0))
	f.Add(head[:96], []byte{}, uint16(64))
	f.Add(bytes.Repeat([]byte{0xff}, 192), whole[len(whole)-20:], uint16(9))
	f.Fuzz(func(t *testing.T, head, end []byte, cut uint16) {
		b := bytes.Clone(whole[:max(0, len(whole)-int(cut))])
		copy(b, head[:min(96, len(head))])
		if len(head) > 96 && len(b) > 4096 {
			copy(b[4096:], head[96:])
		}
		b = append(b[:max(0, len(b)-len(end))], end...)
		ok(t, os.WriteFile(path, b, 0o600))
		got, _, err := i.wake(p)
		if err == nil && !bytes.Equal(got, mem) || err != nil && sealed.ReasonOf(err) == "" {
			t.Fatalf("another memory, or %v", err)
		}
	})
}
