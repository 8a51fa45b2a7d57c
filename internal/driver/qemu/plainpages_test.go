package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"mvm/internal/sys"
)

// What older versions wrote.

// WritePages writes a file of pages. data has one run after the other, and is spoilt.
func WritePages(f *os.File, size int64, runs []sys.PageRun, data []byte) error {
	w := &pageWriter{f: f, size: size, end: sys.PageSize}
	return errors.Join(w.add(runs, data), w.finish())
}

// isZero reports that all of the page is zero.
func isZero(page []byte) bool { return page[0] == 0 && bytes.Equal(page[1:], page[:len(page)-1]) }

// pageWriter writes pages of a guest's memory to a file of pages.
type pageWriter struct {
	f    *os.File
	size int64 // of the memory

	end   int64 // of what is written
	index []pagesRun
}

// add writes the pages of the runs, which data has one after the other.
func (w *pageWriter) add(runs []sys.PageRun, data []byte) error {
	kept := data[:0] // the pages that are not zero, moved together
	for _, r := range runs {
		for r.Count > 0 {
			n, zero := sameKind(data[:r.Count*sys.PageSize])
			part := data[:n*sys.PageSize]
			data = data[len(part):]
			kept = w.note(r.Page, n, zero, part, kept)
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
