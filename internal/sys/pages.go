package sys

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PageSize is that of pages in this package.
const PageSize = 4096

// PageRun is a run of pages of a mapping.
type PageRun struct {
	Page  int64 `json:"page"`
	Count int64 `json:"count"`
}

// ErrNoMapping says that a process does not map the file, or not all of it.
var ErrNoMapping = errors.New("the process does not map the file as a whole")

// Mapping is the memory of another process where it maps a file from its begin. It
// belongs to the address space that the process had when it was opened: no process that
// gets the number later is ever read or written. A process that changes its mappings
// meanwhile gets, or is, what is at their addresses by then.
type Mapping struct {
	Shared bool // the file has what the process writes

	pid     int
	bytes   int64
	base    uint64
	mem     *os.File
	pagemap *os.File
}

// maxMaps bounds what is read of a process's list of mappings, which it can make long.
const maxMaps = 16 << 20

// OpenMapping finds where the process maps the file with the inode, of so many bytes.
// It takes the right to trace the process. ErrNoMapping where there is none, or several.
func (p *Process) OpenMapping(inode uint64, bytes int64) (_ *Mapping, err error) {
	m := &Mapping{pid: p.PID, bytes: bytes}
	defer func() {
		if err != nil {
			_ = m.Close()
		}
	}()
	if m.mem, err = p.openOwn("mem", os.O_RDWR); err != nil {
		return nil, p.goneOr(err)
	}
	if m.pagemap, err = p.openOwn("pagemap", os.O_RDONLY); err != nil {
		return nil, p.goneOr(err)
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", p.PID))
	if err != nil {
		return nil, p.goneOr(err)
	}
	defer maps.Close()
	if err := p.check(); err != nil { // now, so the files are of this very process
		return nil, err
	}
	m.base, m.Shared, err = findMapping(io.LimitReader(maps, maxMaps), inode, bytes)
	if err != nil {
		return nil, fmt.Errorf("look at the memory of process %d: %w", p.PID, err)
	}
	return m, nil
}

// openOwn opens a file of the process in /proc that only its own user may open. Who may trace
// the process, and may not override the modes of files, opens it as that user.
func (p *Process) openOwn(name string, flag int) (f *os.File, err error) {
	path := fmt.Sprintf("/proc/%d/%s", p.PID, name)
	if f, err = os.OpenFile(path, flag, 0); !errors.Is(err, os.ErrPermission) {
		return f, err
	}
	user, uerr := UserOf(p.PID)
	if uerr != nil {
		return nil, uerr
	}
	done := make(chan struct{})
	go func() { // on a thread of its own, which ends with it if it can't become what it was
		defer close(done)
		runtime.LockOSThread()
		was, serr := unix.SetfsuidRetUid(user)
		if serr != nil {
			return
		}
		f, err = os.OpenFile(path, flag, 0)
		if back, serr := unix.SetfsuidRetUid(was); serr == nil && back == user {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return f, err
}

// check returns ErrNoProcess when the process is gone.
func (p *Process) check() error {
	var gone bool
	cerr := p.raw.Control(func(fd uintptr) { gone = ended(int(fd)) })
	if cerr == nil && gone {
		return fmt.Errorf("look at process %d: %w", p.PID, ErrNoProcess)
	}
	return cerr
}

// goneOr is why a file of the process in /proc can't be opened: it is gone, or err.
func (p *Process) goneOr(err error) error {
	if gone := p.check(); gone != nil {
		return gone
	}
	return err
}

// Close lets go of the memory.
func (m *Mapping) Close() error {
	var errs []error
	for _, f := range []*os.File{m.mem, m.pagemap} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// area is one line of /proc/PID/maps.
type area struct {
	start, end, offset, inode uint64
	shared                    bool
}

// findMapping finds the one place where the file is mapped as a whole. The kernel may
// list it in several parts.
func findMapping(maps io.Reader, inode uint64, bytes int64) (base uint64, shared bool, err error) {
	parts := map[uint64][]area{} // by where the file's begin is or would be
	lines := bufio.NewReader(maps)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, false, err
		}
		a, ok := parseArea(line)
		if ok && a.inode == inode && a.offset <= a.start {
			parts[a.start-a.offset] = append(parts[a.start-a.offset], a)
		}
	}
	found := 0
	for at, areas := range parts {
		if whole(areas, uint64(bytes)) {
			base, shared = at, areas[0].shared
			found++
		}
	}
	if found != 1 {
		return 0, false, fmt.Errorf("%w: found %d times", ErrNoMapping, found)
	}
	return base, shared, nil
}

// whole reports that the areas are all of the file in one piece, mapped in one way.
func whole(areas []area, bytes uint64) bool {
	slices.SortFunc(areas, func(x, y area) int { return int(int64(x.offset - y.offset)) })
	end := uint64(0)
	for _, a := range areas {
		if a.offset != end || a.shared != areas[0].shared {
			return false
		}
		end += a.end - a.start
	}
	return end == bytes
}

// parseArea reads "start-end perms offset dev inode path".
func parseArea(line string) (a area, ok bool) {
	f := strings.SplitN(strings.TrimSpace(line), " ", 6)
	if len(f) < 5 || len(f[1]) != 4 {
		return a, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	var errs [4]error
	a.start, errs[0] = strconv.ParseUint(from, 16, 64)
	a.end, errs[1] = strconv.ParseUint(to, 16, 64)
	a.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	a.inode, errs[3] = strconv.ParseUint(f[4], 10, 64)
	a.shared = f[1][3] == 's'
	return a, errors.Join(errs[:]...) == nil && a.end > a.start
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61
)

// pagesAtOnce are the entries of a pagemap that are read at once.
const pagesAtOnce = 16 << 10

// Changed lists the pages, from one on, that the process has written since it mapped the
// file: at most so many. next is the page to go on from; past the last page it is the
// number of all pages.
func (m *Mapping) Changed(from, most int64) (runs []PageRun, next int64, err error) {
	all := m.bytes / PageSize
	entries := make([]byte, 8*min(pagesAtOnce, all))
	for page := from; page < all; {
		n := min(all-page, int64(len(entries)/8))
		at := io.NewSectionReader(m.pagemap, 8*(int64(m.base)/PageSize+page), 8*n)
		if _, err := io.ReadFull(at, entries[:8*n]); err != nil {
			return nil, 0, fmt.Errorf("read the page map of process %d: %w", m.pid, gone(err))
		}
		for i := range n {
			if !changed(binary.NativeEndian.Uint64(entries[8*i:])) {
				continue
			}
			if most == 0 {
				return runs, page + i, nil
			}
			most--
			if k := len(runs) - 1; k >= 0 && runs[k].Page+runs[k].Count == page+i {
				runs[k].Count++
			} else {
				runs = append(runs, PageRun{page + i, 1})
			}
		}
		page += n
	}
	return runs, all, nil
}

// changed reports that a page is the process's own and not the file's. A page of the file that
// the kernel is moving looks swapped.
func changed(entry uint64) bool {
	return entry&(pageSwapped|pagePresent) != 0 && entry&pageOfFile == 0
}

// gone is the error of an address space whose process has exited: reading it gives nothing.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ESRCH) {
		return errors.Join(ErrNoProcess, err)
	}
	return err
}

// Read reads the pages into buf, one run after the other.
func (m *Mapping) Read(runs []PageRun, buf []byte) error {
	return m.each(runs, buf, "read", m.mem.ReadAt)
}

// Write writes buf to the pages.
func (m *Mapping) Write(runs []PageRun, buf []byte) error {
	return m.each(runs, buf, "write", m.mem.WriteAt)
}

func (m *Mapping) each(runs []PageRun, buf []byte, verb string, do func([]byte, int64) (int, error)) error {
	for _, r := range runs {
		if r.Page < 0 || r.Count < 1 || r.Page > m.bytes/PageSize-r.Count || int64(len(buf)) < r.Count*PageSize {
			return fmt.Errorf("%s the memory of process %d: pages %d+%d: %w", verb, m.pid, r.Page, r.Count, os.ErrInvalid)
		}
		n := r.Count * PageSize
		if _, err := do(buf[:n], int64(m.base)+r.Page*PageSize); err != nil {
			return fmt.Errorf("%s the memory of process %d: page %d: %w", verb, m.pid, r.Page, gone(err))
		}
		buf = buf[n:]
	}
	return nil
}
