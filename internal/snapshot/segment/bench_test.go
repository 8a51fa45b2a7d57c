package segment_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm/internal/snapshot/segment"
)

// process is memory of a process, read and written as a driver does it with a VMM's.
type process struct{ at []byte }

func (p process) vectors(pieces []segment.Piece) (local []unix.Iovec, remote []unix.RemoteIovec) {
	base := uintptr(unsafe.Pointer(&p.at[0]))
	for _, piece := range pieces {
		v := unix.Iovec{Base: &piece.Data[0]}
		v.SetLen(len(piece.Data))
		local = append(local, v)
		remote = append(remote, unix.RemoteIovec{Base: base + uintptr(piece.Page)*segment.Page, Len: len(piece.Data)})
	}
	return local, remote
}

func (p process) Read(_ context.Context, pieces []segment.Piece) error {
	local, remote := p.vectors(pieces)
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	return err
}

func (p process) write(_ context.Context, pieces []segment.Piece) error {
	local, remote := p.vectors(pieces)
	_, err := unix.ProcessVMWritev(os.Getpid(), local, remote, 0)
	return err
}

// likeMemory fills pages with what compresses about as guests' memory does: a third text, a
// third tables of pointers, a third random.
func likeMemory(m memory, rng *rand.Rand) {
	for n := range m.pages() {
		page := m.page(n)
		switch n / 16 % 3 {
		case 0:
			for i := 0; i < len(page); {
				i += copy(page[i:], fmt.Sprintf("const v%d = require('module-%d');\n", rng.IntN(1000), rng.IntN(50)))
			}
		case 1:
			for i := 0; i < len(page); i += 8 {
				copy(page[i:], []byte{byte(rng.Uint32()), byte(rng.IntN(16)) << 4, 3, 0, 0xff, 0x7f, 0, 0})
			}
		default:
			for i := 0; i < len(page); i += 8 {
				v := rng.Uint64()
				for b := range 8 {
					page[i+b] = byte(v >> (8 * b))
				}
			}
		}
	}
}

func mapped(b *testing.B, flags, fd, bytes int) []byte {
	b.Helper()
	at := must(unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, flags))(b)
	b.Cleanup(func() { ok(b, unix.Munmap(at)) })
	return at
}

const mib = 1 << 20

// bench is a memory of 1 GiB over a base in a sealed memfd, of which dirty MiB differ.
func bench(b *testing.B, dirty int) (i *instance, base *os.File, mem process, runs []segment.Run) {
	b.Helper()
	const size = 1024 * mib
	fd := must(unix.MemfdCreate("base", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))(b)
	base = os.NewFile(uintptr(fd), "base")
	b.Cleanup(func() { ok(b, base.Close()) })
	ok(b, base.Truncate(size))
	some := make(memory, 94*mib)
	rng := rand.New(rand.NewPCG(1, 2))
	likeMemory(some, rng)
	must(base.WriteAt(some, 0))(b)
	mem = process{mapped(b, unix.MAP_PRIVATE, fd, size)}
	own := make(memory, dirty*mib)
	likeMemory(own, rng)
	// Runs of 1 to 64 pages with gaps, as a heap that was written to here and there has.
	for at, page := 0, 0; at < own.pages(); {
		n := min(1+rng.IntN(64), own.pages()-at)
		page += rng.IntN(64) + 1
		copy(mem.at[page*segment.Page:], own[at*segment.Page:(at+n)*segment.Page])
		runs = append(runs, segment.Run{Page: uint32(page), Count: uint32(n)})
		at, page = at+n, page+n
	}
	dir := must(os.MkdirTemp("", "mvm-segment-bench"))(b)
	b.Cleanup(func() { ok(b, os.RemoveAll(dir)) })
	i = newInstance(b, dir, nil, 1)
	i.workers = 0
	i.base = segment.Base{Digest: sha256.Sum256(some), Content: base}
	return i, base, mem, runs
}

func (i *instance) request(mem process, runs []segment.Run, prev *segment.Map) segment.Sleep {
	return segment.Sleep{Base: i.base, Memory: mem, Pages: uint32(len(mem.at) / segment.Page), Changed: runs, Previous: prev, Device: bytes.NewReader(make([]byte, 280<<10))}
}

// BenchmarkInjectCold compares a restore from files that the host has not in memory with a
// plain read of as many bytes and the same restore from memory, in turns.
func BenchmarkInjectCold(b *testing.B) {
	const dirty = 250
	i, base, mem, runs := bench(b, dirty)
	defer i.close()
	p := i.place()
	saved := must(p.Save(context.Background(), i.request(mem, runs, nil)))(b)
	path := i.segments.Path() + "/" + saved.Segment
	ok(b, os.CopyFS(i.dir+"/plain", os.DirFS(i.segments.Path())))
	plain := must(os.OpenFile(i.dir+"/plain/"+saved.Segment, os.O_RDWR, 0))(b)
	defer plain.Close()
	ok(b, plain.Sync())
	f := must(os.Open(path))(b)
	defer f.Close()
	restore := func() time.Duration {
		at := must(unix.Mmap(int(base.Fd()), 0, len(mem.at), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE))(b)
		defer func() { ok(b, unix.Munmap(at)) }()
		return timed(func() {
			s := must(p.Load(i.base.Digest, uint32(len(mem.at)/segment.Page)))(b)
			ok(b, s.Inject(context.Background(), process{at}.write))
			ok(b, s.Close())
		})
	}
	var read, warm, cold []time.Duration
	buf := make([]byte, mib)
	for n := 0; b.Loop() || n < 7; n++ {
		ok(b, unix.Fadvise(int(plain.Fd()), 0, 0, unix.FADV_DONTNEED))
		read = append(read, timed(func() {
			for at := int64(0); ; at += mib {
				if n, _ := plain.ReadAt(buf, at); n < mib {
					break
				}
			}
		}))
		warm = append(warm, restore())
		ok(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		cold = append(cold, restore())
	}
	r, w, c := median(read), median(warm), median(cold)
	b.ReportMetric(r, "read-ms")
	b.ReportMetric(w, "warm-ms")
	b.ReportMetric(c, "cold-ms")
	b.ReportMetric(c/(r+w), "ratio")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return d[len(d)/2].Seconds() * 1000
}

func timed(fn func()) time.Duration {
	start := time.Now()
	fn()
	return time.Since(start)
}

// BenchmarkSleep compares a sleep after so many MiB were dirtied with writing and syncing as
// many, in turns: of a guest that has nothing else, and of one that had 250 MiB in its last
// snapshot, of which it dirtied 60.
func BenchmarkSleep(b *testing.B) {
	for _, c := range []struct{ all, dirty int }{{60, 60}, {250, 250}, {250, 60}} {
		b.Run(fmt.Sprintf("%dMiB_of_%d", c.dirty, c.all), func(b *testing.B) { benchSleep(b, c.all, c.dirty) })
	}
}

func benchSleep(b *testing.B, all, dirty int) {
	i, _, mem, runs := bench(b, all)
	defer i.close()
	plain := make([]byte, dirty*mib)
	copy(plain, mem.at[mib:])
	var prev *segment.Map
	if dirty < all {
		prev = must(i.place().Save(context.Background(), i.request(mem, runs, nil)))(b).Map
		left := dirty * mib / segment.Page
		for _, r := range runs {
			for page := int(r.Page); page < int(r.Page+r.Count) && left > 0; page, left = page+1, left-1 {
				mem.at[page*segment.Page]++
			}
		}
	}
	var sleep, write []time.Duration
	for n := 0; b.Loop() || n < 7; n++ {
		path := fmt.Sprintf("%s/plain-%d", i.dir, n)
		write = append(write, timed(func() {
			f := must(os.Create(path))(b)
			for at := 0; at < len(plain); at += mib {
				must(f.Write(plain[at : at+mib]))(b)
			}
			ok(b, f.Sync())
			ok(b, f.Close())
		}))
		ok(b, os.Remove(path))
		p := i.place()
		var saved segment.Saved
		sleep = append(sleep, timed(func() { saved = must(p.Save(context.Background(), i.request(mem, runs, prev)))(b) }))
		if saved.Written != dirty*mib/segment.Page {
			b.Fatal("saved", saved)
		}
		ok(b, i.segments.Remove(saved.Segment))
	}
	s, w := median(sleep), median(write)
	b.ReportMetric(s, "sleep-ms")
	b.ReportMetric(w, "write+fsync-ms")
	b.ReportMetric(s/w, "ratio")
}

// BenchmarkInject compares a restore of so many MiB into a fresh private mapping of the base
// with a copy of as many bytes into another one, in turns.
func BenchmarkInject(b *testing.B) {
	for _, codec := range []string{"raw", "zstd"} {
		for _, dirty := range []int{50, 250} {
			b.Run(fmt.Sprintf("%s/%dMiB", codec, dirty), func(b *testing.B) { benchInject(b, codec, dirty) })
		}
	}
}

func benchInject(b *testing.B, codec string, dirty int) {
	i, base, mem, runs := bench(b, dirty)
	defer i.close()
	p := i.place()
	saved := must(p.Save(context.Background(), i.request(mem, runs, nil)))(b)
	if codec == "zstd" {
		ok(b, p.Pack(context.Background(), saved.Map))
	}
	st := must(os.Stat(i.segments.Path() + "/" + saved.Segment))(b)
	plain := make([]byte, dirty*mib)
	copy(plain, mem.at[mib:])
	var inject, copied []time.Duration
	fresh := func(fn func(at []byte)) {
		at := must(unix.Mmap(int(base.Fd()), 0, len(mem.at), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE))(b)
		fn(at)
		ok(b, unix.Munmap(at))
	}
	for n := 0; b.Loop() || n < 7; n++ {
		fresh(func(at []byte) {
			copied = append(copied, timed(func() {
				from := plain
				for _, r := range runs {
					from = from[copy(at[r.Page*segment.Page:][:r.Count*segment.Page], from):]
				}
			}))
		})
		fresh(func(at []byte) {
			inject = append(inject, timed(func() {
				s := must(p.Load(i.base.Digest, uint32(len(mem.at)/segment.Page)))(b)
				ok(b, s.Inject(context.Background(), process{at}.write))
				ok(b, s.Close())
			}))
			if n == 0 && !bytes.Equal(at, mem.at) {
				b.Fatal("restored memory differs")
			}
		})
	}
	w, c := median(inject), median(copied)
	b.ReportMetric(w, "inject-ms")
	b.ReportMetric(c, "copy-ms")
	b.ReportMetric(w/c, "ratio")
	b.ReportMetric(float64(st.Size())/float64(dirty*mib), "size-ratio")
}
