package segment

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"mvm"
	"mvm/internal/snapshot/sealed"
)

// ReadMap reads the snapshot's map, of a memory of so many pages; 0: of any size.
func (p Place) ReadMap(pages uint32) (*Map, error) {
	anySize := pages == 0
	if anySize {
		pages = maxPages
	}
	b, err := sealed.Read(p.Own, mapFile, p.Key, p.mapMeta(pages))
	if err != nil {
		return nil, mvm.Explain("read snapshot "+p.ID, err)
	}
	path := p.Own.Path() + "/" + mapFile
	m, err := decode(b)
	if err != nil {
		return nil, sealed.Bad(sealed.Damaged, path, "%w", err)
	}
	if m.Pages != pages && !anySize {
		return nil, sealed.Bad(sealed.OtherMemory, path, "it is of a memory of %d pages, and the guest has %d", m.Pages, pages)
	}
	return m, nil
}

// Check opens all segments of a map, so that a snapshot may rely on them.
func (p Place) Check(m *Map) (err error) {
	s := &Snapshot{m: m, p: p}
	return errors.Join(s.openSegments(), s.Close())
}

// Snapshot is a snapshot that is open to read. What of it was not read yet is verified when it is.
type Snapshot struct {
	m      *Map
	device []byte
	files  []*sealed.File // by segment
	sum    summer
	p      Place
}

// Load opens the snapshot over the base, with all of its segments, which the host begins to
// read. What is wrong with the snapshot itself is a sealed.Error.
func (p Place) Load(base Digest, pages uint32) (*Snapshot, error) {
	m, err := p.ReadMap(pages)
	if err != nil {
		return nil, err
	}
	if m.Base != base {
		return nil, sealed.Bad(sealed.OtherBase, p.Own.Path()+"/"+mapFile, "it belongs to base %x, and the guest has %x", m.Base[:8], base[:8])
	}
	s := &Snapshot{m: m, p: p}
	if err := s.open(); err != nil {
		return nil, errors.Join(mvm.Explain("open snapshot "+p.ID, err), s.Close())
	}
	return s, nil
}

func (s *Snapshot) open() (err error) {
	if s.sum, err = newSummer(s.m.sumKey); err != nil {
		return err
	}
	if s.device, err = sealed.Read(s.p.Own, deviceFile, s.p.Key, s.p.deviceMeta()); err != nil {
		return err
	}
	if sha256.Sum256(s.device) != s.m.Device {
		return sealed.Bad(sealed.Damaged, s.p.Own.Path()+"/"+deviceFile, "it is not the one that the map names")
	}
	if err := s.openSegments(); err != nil {
		return err
	}
	for _, f := range s.files {
		f.Prefetch()
	}
	return nil
}

func (s *Snapshot) openSegments() error {
	for _, part := range s.m.Segments {
		f, err := sealed.Open(s.p.Segments, part.Name, s.p.Key, segMeta(s.m.Base, part.Name))
		if err != nil {
			return err
		}
		s.files = append(s.files, f)
		if f.Length() != int64(part.Pages)*Page {
			return sealed.Bad(sealed.Damaged, f.Path(), "it has %d bytes, and the map says %d pages", f.Length(), part.Pages)
		}
	}
	return nil
}

// Map says where the pages are.
func (s *Snapshot) Map() *Map { return s.m }

// Device is the state of the devices.
func (s *Snapshot) Device() []byte { return s.device }

// Close lets go of the files.
func (s *Snapshot) Close() (err error) {
	for _, f := range s.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// job is a part of a restore: chunks of a segment that hold live pages, or zeros.
type job struct {
	segment      int // or Zero
	first, count int64
	extents      []located // of the segment, by place; the first and the last may go beyond the chunks
}

// jobs divides a restore. Each segment's pages come in guest order as they were written.
func (s *Snapshot) jobs() (jobs []job) {
	for i, list := range s.m.bySegment() {
		for from := uint32(0); from < s.m.Segments[i].Pages; from += perBatch {
			to := from + perBatch
			a := sort.Search(len(list), func(n int) bool { return list[n].Ordinal+list[n].Count > from })
			z := sort.Search(len(list), func(n int) bool { return list[n].Ordinal >= to })
			if a < z {
				first := max(list[a].Ordinal, from) / chunkPages
				last := (min(list[z-1].Ordinal+list[z-1].Count, to) - 1) / chunkPages
				jobs = append(jobs, job{i, int64(first), int64(last-first) + 1, list[a:z]})
			}
		}
	}
	for _, e := range s.m.Extents {
		for e.Segment == Zero && e.Count > 0 {
			n := min(e.Count, perBatch)
			jobs = append(jobs, job{segment: Zero, extents: []located{{Extent{e.Page, n, Zero, 0}, 0}}})
			e.Page, e.Count = e.Page+n, e.Count-n
		}
	}
	return jobs
}

// Inject reads and verifies all pages that differ from the base, and has write put them into
// the memory. Each page comes once. write is called from many goroutines, with pieces of
// 1 MiB at most together, which are good until it returns. After an error some pages were
// written.
func (s *Snapshot) Inject(ctx context.Context, write func(context.Context, []Piece) error) error {
	jobs, zeros := s.jobs(), make([]byte, perBatch*Page)
	workers := s.p.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range min(workers, len(jobs)) {
		g.Go(func() error {
			var b sealed.Buffer
			var pieces []Piece
			for {
				n := int(next.Add(1)) - 1
				if n >= len(jobs) {
					return nil
				}
				if err := context.Cause(gctx); err != nil {
					return err
				}
				var err error
				if pieces, err = s.pieces(jobs[n], zeros, pieces[:0], &b); err != nil {
					return err
				}
				if err := write(gctx, pieces); err != nil {
					return err
				}
			}
		})
	}
	return explain(ctx, "restore snapshot "+s.p.ID, g.Wait())
}

// pieces reads the pages of a job.
func (s *Snapshot) pieces(j job, zeros []byte, pieces []Piece, b *sealed.Buffer) ([]Piece, error) {
	if j.segment == Zero {
		return append(pieces, Piece{j.extents[0].Page, zeros[:j.extents[0].Count*Page]}), nil
	}
	f := s.files[j.segment]
	from, to := uint32(j.first)*chunkPages, uint32(j.first+j.count)*chunkPages
	needed := make([]bool, j.count)
	for _, l := range j.extents {
		l = l.clip(from, to)
		for c := l.Ordinal / chunkPages; c <= (l.Ordinal+l.Count-1)/chunkPages; c++ {
			needed[c-uint32(j.first)] = true
		}
	}
	content, err := f.ReadChunks(j.first, j.count, func(chunk int64) bool { return needed[chunk-j.first] }, b)
	if err != nil {
		return nil, err
	}
	for _, l := range j.extents {
		l = l.clip(from, to)
		data := content[(l.Ordinal-from)*Page:][:l.Count*Page]
		if err := s.m.verify(s.sum, l, data); err != nil {
			return nil, sealed.Bad(sealed.Damaged, f.Path(), "%w", err)
		}
		pieces = append(pieces, Piece{l.Page, data})
	}
	return pieces, nil
}

// clip is the part of the extent that is between two places in the segment.
func (l located) clip(from, to uint32) located {
	if l.Ordinal < from {
		d := from - l.Ordinal
		l.Page, l.Count, l.Ordinal, l.sum = l.Page+d, l.Count-d, from, l.sum+int(d)
	}
	l.Count = min(l.Count, to-l.Ordinal)
	return l
}

// verify compares pages with their sums.
func (m *Map) verify(s summer, l located, data []byte) error {
	for i := range l.Count {
		if page := l.Page + i; s.sum(page, data[i*Page:][:Page]) != m.sums[l.sum+int(i)] {
			return fmt.Errorf("page %d is not what the map says", page)
		}
	}
	return nil
}
