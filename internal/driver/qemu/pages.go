package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// A file of pages has pages of a guest's memory that a memory file lacks:
//
//	header   pagesHeader, in a block of its own
//	pages    those that are not zero, one run after the other
//	index    a pagesRun for each run, in the order of the guest's memory
//
// All numbers are little-endian. Header, index and each run have a checksum.
const (
	pagesMagic   = "mvmpages"
	pagesVersion = 1
)

type pagesHeader struct {
	Magic    [8]byte
	Version  uint32
	Runs     uint32
	Memory   uint64 // bytes of the guest's
	Index    uint64 // where it begins
	IndexSum uint32
	Sum      uint32 // of what stands before it
}

type pagesRun struct {
	Page  uint64
	Count uint32
	Zero  uint32 // 1: the pages are zero, and not in the file
	Sum   uint32
	_     uint32
}

const (
	headerSize = 40 // of a pagesHeader
	runSize    = 24 // of a pagesRun
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// isZero reports that all of the page is zero.
func isZero(page []byte) bool { return page[0] == 0 && bytes.Equal(page[1:], page[:len(page)-1]) }

// pageWriter writes pages of a guest's memory to a file: as a file of pages, or, whole, each
// where it is in the memory.
type pageWriter struct {
	f     *os.File
	size  int64 // of the memory
	whole bool

	end   int64 // of what is written
	index []pagesRun
}

func newPageWriter(f *os.File, size int64, whole bool) *pageWriter {
	return &pageWriter{f: f, size: size, whole: whole, end: sys.PageSize}
}

// changed writes all that the guest has written since its memory was mapped.
func (w *pageWriter) changed(ctx context.Context, m vmproc.Memory) error {
	if w.whole {
		if err := w.f.Truncate(w.size); err != nil {
			return err
		}
	}
	buf := make([]byte, min(w.size, vmproc.MaxWindow))
	for page := int64(0); page < w.size/sys.PageSize; {
		runs, next, err := m.Changed(ctx, page, len(buf)/sys.PageSize)
		if err == nil {
			err = m.Read(ctx, runs, buf)
		}
		if err != nil {
			return err
		}
		if next <= page {
			return fmt.Errorf("read the guest's memory: it does not get past page %d", page)
		}
		if err := w.add(runs, buf); err != nil {
			return err
		}
		page = next
	}
	return w.finish()
}

// add writes the pages of the runs, which data has one after the other.
func (w *pageWriter) add(runs []sys.PageRun, data []byte) error {
	kept := data[:0] // the pages that are not zero, moved together
	for _, r := range runs {
		for r.Count > 0 {
			n, zero := sameKind(data[:r.Count*sys.PageSize])
			part := data[:n*sys.PageSize]
			data = data[len(part):]
			if w.whole && !zero {
				if _, err := w.f.WriteAt(part, r.Page*sys.PageSize); err != nil {
					return err
				}
			}
			if !w.whole {
				kept = w.note(r.Page, n, zero, part, kept)
			}
			r.Page, r.Count = r.Page+n, r.Count-n
		}
	}
	_, err := w.f.WriteAt(kept, w.end)
	w.end += int64(len(kept))
	return err
}

// note puts a run into the index, and its pages behind those that are kept.
func (w *pageWriter) note(page, n int64, zero bool, part, kept []byte) []byte {
	r := pagesRun{Page: uint64(page), Count: uint32(n)}
	if zero {
		r.Zero = 1
	} else {
		r.Sum = checksum(part)
		kept = append(kept, part...) // never past part: less was kept than was read
	}
	w.index = append(w.index, r)
	return kept
}

// sameKind counts the pages at the begin that are all zero, or all not.
func sameKind(data []byte) (n int64, zero bool) {
	zero = isZero(data[:sys.PageSize])
	for n = 1; n*sys.PageSize < int64(len(data)); n++ {
		if isZero(data[n*sys.PageSize:(n+1)*sys.PageSize]) != zero {
			break
		}
	}
	return n, zero
}

// finish writes index and header.
func (w *pageWriter) finish() error {
	if w.whole {
		return nil
	}
	var index, head bytes.Buffer
	if err := binary.Write(&index, binary.LittleEndian, w.index); err != nil {
		return err
	}
	h := pagesHeader{Version: pagesVersion, Runs: uint32(len(w.index)), Memory: uint64(w.size), Index: uint64(w.end),
		IndexSum: checksum(index.Bytes())}
	copy(h.Magic[:], pagesMagic)
	if err := binary.Write(&head, binary.LittleEndian, h); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head.Bytes()[headerSize-4:], checksum(head.Bytes()[:headerSize-4]))
	if _, err := w.f.WriteAt(index.Bytes(), w.end); err != nil {
		return err
	}
	_, err := w.f.WriteAt(head.Bytes(), 0)
	return err
}

// errPages says that a file of pages is not as it was written.
var errPages = errors.New("the file of changed pages is damaged")

// pageReader reads a file of pages.
type pageReader struct {
	f     *os.File
	index []pagesRun
}

// readPages reads the index. An error is errPages unless it is the host's.
func readPages(f *os.File, size int64) (*pageReader, error) {
	head := make([]byte, headerSize)
	if err := readAt(f, head, 0); err != nil {
		return nil, err
	}
	var h pagesHeader
	if err := binary.Read(bytes.NewReader(head), binary.LittleEndian, &h); err != nil {
		return nil, err
	}
	pages := uint64(size / sys.PageSize)
	if h.Sum != checksum(head[:headerSize-4]) || string(h.Magic[:]) != pagesMagic || h.Version != pagesVersion ||
		h.Memory != uint64(size) || uint64(h.Runs) > pages || h.Index > uint64(size)+sys.PageSize {
		return nil, fmt.Errorf("%w: its header", errPages)
	}
	raw := make([]byte, int(h.Runs)*runSize)
	if err := readAt(f, raw, int64(h.Index)); err != nil {
		return nil, err
	}
	if h.IndexSum != checksum(raw) {
		return nil, fmt.Errorf("%w: its index", errPages)
	}
	r := &pageReader{f: f, index: make([]pagesRun, h.Runs)}
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, r.index); err != nil {
		return nil, err
	}
	next := uint64(0)
	for _, run := range r.index {
		if run.Page < next || run.Page >= pages || run.Count == 0 || uint64(run.Count) > pages-run.Page || run.Count > vmproc.MaxWindow/sys.PageSize {
			return nil, fmt.Errorf("%w: its index", errPages)
		}
		next = run.Page + uint64(run.Count)
	}
	return r, nil
}

// readAt reads all of b. A file that ends before is damaged.
func readAt(f *os.File, b []byte, at int64) error {
	_, err := io.ReadFull(io.NewSectionReader(f, at, int64(len(b))), b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is too short", errPages)
	}
	return err
}

// each calls fn with the pages of each run, checked. data is nil for zero pages.
func (r *pageReader) each(fn func(run pagesRun, data []byte) error) error {
	most := uint32(0)
	for _, run := range r.index {
		most = max(most, run.Count)
	}
	at, buf := int64(sys.PageSize), make([]byte, int(most)*sys.PageSize)
	for _, run := range r.index {
		var data []byte
		if run.Zero == 0 {
			data = buf[:int(run.Count)*sys.PageSize]
			if err := readAt(r.f, data, at); err != nil {
				return err
			}
			if checksum(data) != run.Sum {
				return fmt.Errorf("%w: page %d", errPages, run.Page)
			}
			at += int64(len(data))
		}
		if err := fn(run, data); err != nil {
			return err
		}
	}
	return nil
}

// apply puts the pages into a memory file. It may be cut off, and run again.
func (r *pageReader) apply(memory *os.File) error {
	return r.each(func(run pagesRun, data []byte) error {
		at := int64(run.Page) * sys.PageSize
		if data == nil {
			return zeroOut(memory, at, int64(run.Count)*sys.PageSize)
		}
		_, err := memory.WriteAt(data, at)
		return err
	})
}

// zeroOut makes a part of the file zero.
func zeroOut(f *os.File, at, n int64) error {
	err := punch(f, at, n)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for zero := make([]byte, sys.PageSize); n > 0; at, n = at+sys.PageSize, n-sys.PageSize {
		if _, err := f.WriteAt(zero, at); err != nil {
			return err
		}
	}
	return nil
}

// inject puts the pages into the memory of a VMM.
func (r *pageReader) inject(ctx context.Context, m vmproc.Memory) error {
	var runs []sys.PageRun
	window := make([]byte, 0, vmproc.MaxWindow)
	flush := func() error {
		if len(runs) == 0 {
			return nil
		}
		err := m.Write(ctx, runs, window)
		runs, window = runs[:0], window[:0]
		return err
	}
	err := r.each(func(run pagesRun, data []byte) error {
		n := int(run.Count) * sys.PageSize
		if len(window)+n > cap(window) {
			if err := flush(); err != nil {
				return err
			}
		}
		runs = append(runs, sys.PageRun{Page: int64(run.Page), Count: int64(run.Count)})
		window = window[:len(window)+n]
		part := window[len(window)-n:]
		clear(part[copy(part, data):])
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}
