package sys_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
	"mvm/internal/testenv"
)

const (
	envMapper = "MVM_TEST_MAPPER"
	mapPages  = 64
	mapBytes  = mapPages * sys.PageSize
)

// mapper maps the file privately, and then does what it reads: it stands for a VMM.
func mapper(path string) {
	at, err := mapFile(0, path, syscall.MAP_PRIVATE)
	for line := bufio.NewScanner(os.Stdin); ; {
		fmt.Println(err)
		if !line.Scan() {
			os.Exit(0)
		}
		var page uintptr
		var word string
		fmt.Sscan(line.Text(), &word, &page)
		mem := unsafeSlice(at, mapBytes)
		switch word {
		case "write":
			copy(mem[page*sys.PageSize:], bytes.Repeat([]byte{byte(page + 1)}, sys.PageSize))
		case "read":
			if mem[page*sys.PageSize] != 0 {
				err = nil
			}
		case "split": // the kernel lists it in parts
			err = unix.Mprotect(mem[page*sys.PageSize:][:sys.PageSize], unix.PROT_READ)
		case "unmap":
			_, _, errno := syscall.Syscall(syscall.SYS_MUNMAP, at, mapBytes, 0)
			err = errOf(errno)
		case "over":
			_, err = mapFile(at, "/proc/self/exe", syscall.MAP_PRIVATE|syscall.MAP_FIXED)
		case "twice":
			_, err = mapFile(0, path, syscall.MAP_PRIVATE)
		case "share":
			_, err = mapFile(at, path, syscall.MAP_SHARED|syscall.MAP_FIXED)
		}
	}
}

func errOf(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func mapFile(at uintptr, path string, flags int) (uintptr, error) {
	mode, prot := os.O_RDWR, syscall.PROT_READ|syscall.PROT_WRITE
	if strings.HasPrefix(path, "/proc") {
		mode, prot = os.O_RDONLY, syscall.PROT_READ
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	got, _, errno := syscall.Syscall6(syscall.SYS_MMAP, at, mapBytes, uintptr(prot), uintptr(flags), f.Fd(), 0)
	return got, errOf(errno)
}

// mapped is a process that maps a file, as a VMM does its guest's memory.
type mapped struct {
	t     *testing.T
	p     *sys.Process
	inode uint64
	file  []byte
	in    io.Writer
	out   *bufio.Scanner
	end   func()
}

func newMapped(t *testing.T, path string) *mapped {
	t.Helper()
	testenv.NeedRoot(t)
	m := &mapped{t: t}
	if path == "" {
		path = filepath.Join(t.TempDir(), "memory")
		m.file = bytes.Repeat([]byte{0xff}, mapBytes)
		must(t, os.WriteFile(path, m.file, 0o600))
	}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	m.inode = st.Ino
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), envMapper+"="+path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	m.in, m.out = in, bufio.NewScanner(out)
	m.p, err = sys.OpenProcess(cmd.Process.Pid)
	must(t, err)
	m.end = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(func() { m.end(); _ = m.p.Close() })
	m.answered()
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *mapped) answered() {
	m.t.Helper()
	if !m.out.Scan() || m.out.Text() != "<nil>" {
		m.t.Fatalf("the mapper says %q, %v", m.out.Text(), m.out.Err())
	}
}

func (m *mapped) do(words string, page int) {
	m.t.Helper()
	fmt.Fprintln(m.in, words, page)
	m.answered()
}

func (m *mapped) open() *sys.Mapping {
	m.t.Helper()
	mem, err := m.p.OpenMapping(m.inode, mapBytes)
	must(m.t, err)
	m.t.Cleanup(func() { _ = mem.Close() })
	return mem
}

// What a process has written to its private mapping is found, read and replaced, and nothing
// else: the file below stays.
func TestPagesOfAMapping(t *testing.T) {
	for _, path := range []string{"", "/dev/zero"} {
		m := newMapped(t, path)
		mem := m.open()
		if runs, next, err := mem.Changed(0, mapPages); len(runs) > 0 || next != mapPages || err != nil || mem.Shared {
			t.Errorf("before it wrote: %v, %d, %v", runs, next, err)
		}
		for _, page := range []int{3, 4, 9, 63} {
			m.do("write", page)
		}
		if path == "" {
			m.do("read", 20) // a page of the file
		}
		m.do("split", 30)
		mem = m.open()
		want := []sys.PageRun{{Page: 3, Count: 2}, {Page: 9, Count: 1}, {Page: 63, Count: 1}}
		runs, next, err := mem.Changed(0, mapPages)
		if !slices.Equal(runs, want) || next != mapPages || err != nil {
			t.Errorf("it wrote: %v, %d, %v; want %v", runs, next, err, want)
		}
		buf := make([]byte, 4*sys.PageSize)
		must(t, mem.Read(runs, buf))
		for n, page := range []byte{3, 4, 9, 63} {
			if got := buf[n*sys.PageSize:][:sys.PageSize]; !bytes.Equal(got, bytes.Repeat([]byte{page + 1}, sys.PageSize)) {
				t.Errorf("page %d begins with %x", page, got[:8])
			}
		}
		for from, want := range map[int64]struct { // at most 2 pages
			runs []sys.PageRun
			next int64
		}{0: {[]sys.PageRun{{Page: 3, Count: 2}}, 9}, 4: {[]sys.PageRun{{Page: 4, Count: 1}, {Page: 9, Count: 1}}, 63}, 10: {[]sys.PageRun{{Page: 63, Count: 1}}, 64}, 64: {nil, 64}} {
			if runs, next, err := mem.Changed(from, 2); !slices.Equal(runs, want.runs) || next != want.next || err != nil {
				t.Errorf("2 pages from %d: %v, %d, %v; want %v, %d", from, runs, next, err, want.runs, want.next)
			}
		}
		must(t, mem.Write([]sys.PageRun{{Page: 50, Count: 2}}, buf))
		must(t, mem.Read([]sys.PageRun{{Page: 51, Count: 1}}, buf[2*sys.PageSize:]))
		if !bytes.Equal(buf[sys.PageSize:2*sys.PageSize], buf[2*sys.PageSize:3*sys.PageSize]) {
			t.Error("a page is not what was written to it")
		}
		for _, r := range []sys.PageRun{{Page: -1, Count: 1}, {Page: 0, Count: 0}, {Page: 64, Count: 1}, {Page: 63, Count: 2}, {Page: 1 << 62, Count: 1 << 62}} {
			if err := mem.Read([]sys.PageRun{r}, buf); !errors.Is(err, os.ErrInvalid) {
				t.Errorf("read of %v: %v, want it refused", r, err)
			}
		}
	}
}

// A process that changes its mappings meanwhile, or ends, gets an error or what it has there
// itself; no other process is ever read, and the file is not written.
func TestPagesOfAProcessThatCheats(t *testing.T) {
	page := []sys.PageRun{{Page: 3, Count: 1}}
	for _, c := range []struct {
		name  string
		do    func(m *mapped)
		open  error // of a mapping that is opened afterwards
		write error // of one that was opened before; nil: it may be an error
	}{
		{"unmaps", func(m *mapped) { m.do("unmap", 0) }, sys.ErrNoMapping, syscall.EIO},
		{"maps another file over it", func(m *mapped) { m.do("over", 0) }, sys.ErrNoMapping, nil},
		{"maps it twice", func(m *mapped) { m.do("twice", 0) }, sys.ErrNoMapping, nil},
		{"exits", func(m *mapped) { m.end() }, sys.ErrNoProcess, sys.ErrNoProcess},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMapped(t, "")
			mem := m.open()
			c.do(m)
			buf := bytes.Repeat([]byte{7}, sys.PageSize)
			if _, _, err := mem.Changed(0, mapPages); errors.Is(c.open, sys.ErrNoProcess) && !errors.Is(err, sys.ErrNoProcess) {
				t.Errorf("changed pages: %v, want that it is gone", err)
			}
			if err := mem.Write(page, buf); c.write != nil && !errors.Is(err, c.write) {
				t.Errorf("write: %v, want %v", err, c.write)
			}
			if err := mem.Read(page, buf); c.write != nil && err == nil {
				t.Error("what is not there was read")
			}
			if again, err := m.p.OpenMapping(m.inode, mapBytes); !errors.Is(err, c.open) {
				t.Errorf("open again: %v, %v; want %v", again, err, c.open)
			}
		})
	}
	m := newMapped(t, "")
	for _, bytes := range []int64{mapBytes - sys.PageSize, mapBytes + sys.PageSize} {
		if _, err := m.p.OpenMapping(m.inode, bytes); !errors.Is(err, sys.ErrNoMapping) {
			t.Errorf("a mapping of another size, %d: %v", bytes, err)
		}
	}
	if _, err := m.p.OpenMapping(m.inode+1, mapBytes); !errors.Is(err, sys.ErrNoMapping) {
		t.Errorf("a mapping of another file: %v", err)
	}
	m.do("share", 0)
	if mem := m.open(); !mem.Shared {
		t.Error("a shared mapping is not told as one")
	}
}

// unsafeSlice is memory that this process has mapped.
func unsafeSlice(at uintptr, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), n)
}
