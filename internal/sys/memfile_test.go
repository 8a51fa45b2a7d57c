package sys_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
)

// A file in memory keeps its size, whoever has it. What is given back of it is zero, but for
// what a process has changed in its private mapping.
func TestMemoryFile(t *testing.T) {
	const pages = 8
	f, err := sys.NewMemoryFile("memory", pages*sys.PageSize)
	must(t, err)
	defer f.Close()
	page := bytes.Repeat([]byte{1}, sys.PageSize)
	for n := range int64(pages) {
		_, err := f.WriteAt(page, n*sys.PageSize)
		must(t, err)
	}
	for what, err := range map[string]error{
		"longer":  f.Truncate((pages + 1) * sys.PageSize),
		"shorter": f.Truncate(0),
	} {
		if err == nil {
			t.Errorf("it was made %s", what)
		}
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
		t.Error("it was sealed")
	}
	m, err := unix.Mmap(int(f.Fd()), 0, pages*sys.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(t, err)
	defer func() { must(t, unix.Munmap(m)) }()
	m[2*sys.PageSize], m[3*sys.PageSize] = 2, 2
	var before, after unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &before))
	must(t, sys.Punch(f, []sys.PageRun{{Page: 2, Count: 2}, {Page: 7, Count: 1}}))
	must(t, unix.Fstat(int(f.Fd()), &after))
	if freed := (before.Blocks - after.Blocks) * 512; freed != 3*sys.PageSize {
		t.Errorf("%d bytes were given back, want 3 pages", freed)
	}
	for n, want := range []byte{1, 1, 2, 2, 1, 1, 1, 0} {
		if got := m[n*sys.PageSize]; got != want {
			t.Errorf("page %d of the mapping begins with %d, want %d", n, got, want)
		}
	}
	if m[2*sys.PageSize+1] != 1 {
		t.Error("the rest of a changed page is lost")
	}
	if err := sys.Punch(f, []sys.PageRun{{Page: -1, Count: 1}}); err == nil {
		t.Error("a page before the first was given back")
	}
}
