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

	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// A file of pages is what an older version left of a sleep that was cut off: pages of the
// guest's memory that its memory file lacks.
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
