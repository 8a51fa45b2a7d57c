package qemu_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/driver/qemu"
	"mvm/internal/sys"
)

// Changed pages that were written to a file and put into a memory file make it the memory that
// they were read from, however often. No bit of the file can change unnoticed, but for those that
// nothing reads.
func TestFileOfPages(t *testing.T) {
	const pages, size = 64, 64 * sys.PageSize
	rng := rand.New(rand.NewPCG(1, 2))
	page := func() []byte {
		b := make([]byte, sys.PageSize)
		if rng.IntN(3) > 0 { // else it is zero
			b[rng.IntN(len(b))] = byte(1 + rng.IntN(255))
		}
		return b
	}
	dir := t.TempDir()
	file := func(name string, content []byte) *os.File {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	var was, want, data []byte
	var runs []sys.PageRun
	for n := range int64(pages) {
		old, now := page(), page()
		was = append(was, old...)
		if n%7 > 3 {
			want = append(want, old...)
			continue
		}
		want, data = append(want, now...), append(data, now...)
		if k := len(runs) - 1; k >= 0 && runs[k].Page+runs[k].Count == n {
			runs[k].Count++
		} else {
			runs = append(runs, sys.PageRun{Page: n, Count: 1})
		}
	}
	f, memory := file("pages", nil), file("memory", was)
	must(t, qemu.WritePages(f, size, runs, data))
	got := make([]byte, size)
	for range 2 {
		must(t, qemu.ApplyPages(f, memory, size))
		_, err := memory.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatal("the memory file is not the memory that was saved")
		}
	}
	whole, err := os.ReadFile(f.Name())
	must(t, err)
	damaged := 0
	for range 1000 {
		bad := bytes.Clone(whole)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		if rng.IntN(10) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		}
		must(t, os.WriteFile(f.Name(), bad, 0o600))
		err := qemu.ApplyPages(f, memory, size)
		if errors.Is(err, qemu.ErrPages) {
			damaged++
			continue
		}
		must(t, err)
		_, err = memory.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatal("a bit that changed was not noticed")
		}
	}
	if damaged < 700 {
		t.Errorf("%d of 1000 changes were noticed", damaged)
	}
	for _, other := range []int64{size / 2, size * 2} {
		must(t, os.WriteFile(f.Name(), whole, 0o600))
		if err := qemu.ApplyPages(f, memory, other); !errors.Is(err, qemu.ErrPages) {
			t.Errorf("pages of a memory of another size, %d: %v", other, err)
		}
	}
}
