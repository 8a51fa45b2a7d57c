package segment

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Zero is the segment of extents whose pages are zero.
const Zero = -1

// Extent is pages that follow each other in the memory and in a segment.
type Extent struct {
	Page, Count uint32
	Segment     int    // index in Map.Segments, or Zero
	Ordinal     uint32 // of the first page in the segment; 0 for zeros
}

// end is the page behind the extent.
func (e Extent) end() uint32 { return e.Page + e.Count }

// Part is a segment that a map names.
type Part struct {
	Name  string
	Pages uint32 // that the segment has, live and dead
}

// Map says where each page of a guest's memory is. Pages that no extent has are the base's.
// Nobody changes a Map.
type Map struct {
	Base     Digest
	Pages    uint32   // of the memory
	Device   [32]byte // SHA-256 of the state of the devices
	Segments []Part
	Extents  []Extent // sorted by page

	sumKey [32]byte
	sums   []Sum // of the pages that are in segments, in the order of Extents
}

// ID tells the map from all others by its content. It is no secret: the content has random
// keys.
func (m *Map) ID() string {
	sum := sha256.Sum256(m.encode())
	return hex.EncodeToString(sum[:])
}

// Live is how many pages the segments hold that a restore needs.
func (m *Map) Live() int { return len(m.sums) }

// Held is how many pages the segments hold, live and dead.
func (m *Map) Held() (pages int) {
	for _, s := range m.Segments {
		pages += int(s.Pages)
	}
	return pages
}

// The form of a map, little-endian: "mvm map" and the version, base, device state's digest,
// key of sums; pages of the memory, segments and extents, 4 bytes each; then the segments (16
// random bytes of the name, pages), the extents (page, count, segment, ordinal, 4 bytes each;
// segment 0xffffffff is Zero), and the sums.
const (
	mapMagic   = "mvm map\x01"
	mapHead    = 8 + 3*32 + 3*4
	partSize   = 16 + 4
	extentSize = 4 * 4
	sumSize    = 16
)

// mapLimit is how large a map can be: in the worst case each page is an extent, in a segment
// of its own.
func mapLimit(pages uint32) int64 {
	return mapHead + int64(min(pages, maxPages))*(partSize+extentSize+sumSize)
}

// encode is the map as it is sealed.
func (m *Map) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, mapHead+len(m.Segments)*partSize+len(m.Extents)*extentSize+len(m.sums)*sumSize)
	b = append(b, mapMagic...)
	b = append(b, m.Base[:]...)
	b = append(b, m.Device[:]...)
	b = append(b, m.sumKey[:]...)
	for _, n := range []uint32{m.Pages, uint32(len(m.Segments)), uint32(len(m.Extents))} {
		b = le.AppendUint32(b, n)
	}
	for _, s := range m.Segments {
		b = append(b, rawName(s.Name)...)
		b = le.AppendUint32(b, s.Pages)
	}
	for _, e := range m.Extents {
		for _, n := range []uint32{e.Page, e.Count, uint32(int32(e.Segment)), e.Ordinal} {
			b = le.AppendUint32(b, n)
		}
	}
	for _, s := range m.sums {
		b = append(b, s[:]...)
	}
	return b
}

// decode reads what encode made. It takes nothing else, and never more memory than a few
// times the bytes that it is given.
func decode(b []byte) (*Map, error) {
	if len(b) < mapHead || string(b[:8]) != mapMagic {
		return nil, errors.New("it is no map that this mvm knows")
	}
	m := &Map{Base: Digest(b[8:]), Device: [32]byte(b[40:]), sumKey: [32]byte(b[72:])}
	b = b[104:]
	le := binary.LittleEndian
	var segments, extents uint64
	m.Pages, segments, extents, b = le.Uint32(b), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), b[12:]
	if uint64(len(b)) < segments*partSize+extents*extentSize || m.Pages > maxPages {
		return nil, fmt.Errorf("it has %d bytes for %d segments and %d extents of %d pages", len(b), segments, extents, m.Pages)
	}
	m.Segments, m.Extents = make([]Part, segments), make([]Extent, extents)
	for i := range m.Segments {
		m.Segments[i], b = Part{segPrefix + hex.EncodeToString(b[:16]), le.Uint32(b[16:])}, b[partSize:]
	}
	for i := range m.Extents {
		m.Extents[i], b = Extent{le.Uint32(b), le.Uint32(b[4:]), int(int32(le.Uint32(b[8:]))), le.Uint32(b[12:])}, b[extentSize:]
	}
	live, err := m.check()
	if err != nil {
		return nil, err
	}
	if uint64(len(b)) != live*sumSize {
		return nil, fmt.Errorf("it has %d bytes of sums for %d pages", len(b), live)
	}
	m.sums = make([]Sum, live)
	for i := range m.sums {
		m.sums[i] = Sum(b[i*sumSize:])
	}
	return m, nil
}

// check says what in the map contradicts itself, and counts the pages that are in segments.
// A map has one form: extents are as long as they can be, every segment is used, and a place in a
// segment has one page.
func (m *Map) check() (live uint64, err error) {
	names := map[string]bool{}
	for _, s := range m.Segments {
		if names[s.Name] || s.Pages == 0 || s.Pages > maxPages {
			return 0, fmt.Errorf("segment %s is there twice, or has %d pages", s.Name, s.Pages)
		}
		names[s.Name] = true
	}
	end := uint64(0)
	for i, e := range m.Extents {
		switch {
		case e.Count == 0 || uint64(e.Page) < end || uint64(e.Page)+uint64(e.Count) > uint64(m.Pages):
			return 0, fmt.Errorf("extent %d, of %d pages from %d, overlaps another one or goes beyond the memory", i, e.Count, e.Page)
		case e.Segment < Zero || e.Segment >= len(m.Segments) || e.Segment == Zero && e.Ordinal != 0:
			return 0, fmt.Errorf("extent %d is in segment %d of %d", i, e.Segment, len(m.Segments))
		case e.Segment != Zero && uint64(e.Ordinal)+uint64(e.Count) > uint64(m.Segments[e.Segment].Pages):
			return 0, fmt.Errorf("extent %d goes beyond its segment", i)
		case i > 0 && m.Extents[i-1].joins(e):
			return 0, fmt.Errorf("extent %d goes on where the one before ends", i)
		}
		end = uint64(e.Page) + uint64(e.Count)
		if e.Segment != Zero {
			live += uint64(e.Count)
		}
	}
	return live, m.checkPlaces()
}

// checkPlaces says which segment no page is in, and which place in one two pages have.
func (m *Map) checkPlaces() error {
	for s, list := range m.bySegment() {
		if len(list) == 0 {
			return fmt.Errorf("no page is in segment %s", m.Segments[s].Name)
		}
		for i := 1; i < len(list); i++ {
			if list[i-1].Ordinal+list[i-1].Count > list[i].Ordinal {
				return fmt.Errorf("two pages have place %d of segment %s", list[i].Ordinal, m.Segments[s].Name)
			}
		}
	}
	return nil
}

// joins reports whether next goes on where e ends.
func (e Extent) joins(next Extent) bool {
	return e.end() == next.Page && e.Segment == next.Segment && (e.Segment == Zero || e.Ordinal+e.Count == next.Ordinal)
}

// located is an extent with the place of its first sum.
type located struct {
	Extent
	sum int
}

// bySegment are the extents of each segment, in the order of their places in it.
func (m *Map) bySegment() [][]located {
	out := make([][]located, len(m.Segments))
	sum := 0
	for _, e := range m.Extents {
		if e.Segment != Zero {
			out[e.Segment] = append(out[e.Segment], located{e, sum})
			sum += int(e.Count)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(x, y located) int { return int(int64(x.Ordinal) - int64(y.Ordinal)) })
	}
	return out
}

// add puts pages behind all others of the map, joined with those before where they go on.
func (m *Map) add(e Extent, sums ...Sum) {
	if n := len(m.Extents); n > 0 && m.Extents[n-1].joins(e) {
		m.Extents[n-1].Count += e.Count
	} else {
		m.Extents = append(m.Extents, e)
	}
	m.sums = append(m.sums, sums...)
}

// rawName is the random part of a segment's name.
func rawName(name string) []byte {
	b, _ := hex.DecodeString(name[len(segPrefix):]) // isSegName
	return b
}
