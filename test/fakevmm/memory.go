package fakevmm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

const pageSize = 4096

// memory is a guest's: pages of its own over a file that is mapped privately, or over
// nothing. What the guest remembers is in it, from the second page on, and its length in the
// first.
type memory struct {
	size  int64
	base  *os.File
	pages map[int64][]byte // written since the start
	track bool
	dirty map[int64]bool // since the last snapshot; nil before the first: all
}

func newMemory(size int64, track bool) *memory {
	return &memory{size: size, pages: map[int64][]byte{}, track: track}
}

// mapMemory is the memory of a restored guest.
func mapMemory(path string, size int64, track bool) (*memory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() < size {
		err = errors.New("File region exceeds the file size") //nolint:staticcheck // Firecracker's words
	}
	m := newMemory(size, track)
	m.base, m.dirty = f, map[int64]bool{}
	return m, err
}

func (m *memory) page(n int64) ([]byte, error) {
	if p := m.pages[n]; p != nil {
		return p, nil
	}
	p := make([]byte, pageSize)
	if m.base == nil {
		return p, nil
	}
	_, err := m.base.ReadAt(p, n*pageSize)
	return p, err
}

// load reads what the guest remembers.
func (m *memory) load() (g guest, err error) {
	head, err := m.page(0)
	if err != nil {
		return g, err
	}
	length := int64(binary.LittleEndian.Uint64(head))
	if length <= 0 || length > m.size-pageSize {
		return g, fmt.Errorf("the guest's memory is damaged: length %d", length)
	}
	var b []byte
	for n := int64(1); int64(len(b)) < length; n++ {
		p, err := m.page(n)
		if err != nil {
			return g, err
		}
		b = append(b, p...)
	}
	if err := json.Unmarshal(b[:length], &g); err != nil {
		return g, fmt.Errorf("the guest's memory is damaged: %w", err)
	}
	return g, nil
}

// store has the guest remember.
func (m *memory) store(g guest) error {
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	head := make([]byte, pageSize)
	binary.LittleEndian.PutUint64(head, uint64(len(b)))
	all := append(head, b...)
	if int64(len(all)) > m.size {
		return errors.New("the guest has no memory left")
	}
	all = append(all, make([]byte, (pageSize-len(all)%pageSize)%pageSize)...)
	for n := int64(0); n*pageSize < int64(len(all)); n++ {
		want := all[n*pageSize : (n+1)*pageSize]
		have, err := m.page(n)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want) {
			m.pages[n] = bytes.Clone(want)
			if m.dirty != nil {
				m.dirty[n] = true
			}
		}
	}
	return nil
}

// dump writes the memory to the file, as Firecracker does: into one of just its size, and
// else into one that is emptied first.
func (m *memory) dump(path string, diff bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return wrap("Cannot perform open on the memory backing file", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != m.size {
		if err := f.Truncate(0); err != nil {
			return wrap("Cannot perform truncate on the memory backing file", err)
		}
	}
	if err := f.Truncate(m.size); err != nil {
		return wrap("Cannot perform set_length on the memory backing file", err)
	}
	if err := m.write(f, diff && m.dirty != nil); err != nil {
		return wrap("Cannot write memory file", err)
	}
	m.dirty = map[int64]bool{}
	return f.Sync()
}

// write writes all pages, those of zeros too up to a part, or those that changed. Without
// tracking, Firecracker asks the kernel which pages are in memory, and misses what was
// swapped out: here, all but the first.
func (m *memory) write(f *os.File, diff bool) error {
	const dense = 1024 // pages that are written whatever they have
	for n := int64(0); n*pageSize < m.size; n++ {
		_, own := m.pages[n]
		switch {
		case diff && (!m.dirty[n] || !m.track && n > 0):
			continue
		case !diff && !own && n >= dense && m.base == nil:
			return nil
		}
		p, err := m.page(n)
		if err != nil {
			return err
		}
		if !diff && !own && n >= dense && bytes.Equal(p, make([]byte, pageSize)) {
			continue
		}
		if _, err := f.WriteAt(p, n*pageSize); err != nil {
			return err
		}
	}
	return nil
}
