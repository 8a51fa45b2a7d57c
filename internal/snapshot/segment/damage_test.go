package segment_test

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/testenv/quick"
)

var flips = flag.Int("flips", 1000, "how many bits TestBitFlips changes, one at a time")

// sleptBase is the base of the instance that slept makes.
func sleptBase() memory {
	base := make(memory, 150*segment.Page)
	for n := range base.pages() {
		if n%4 != 0 {
			base.fill(n, 1<<40)
		}
	}
	return base
}

// sleptMemory is the memory of that instance when it slept for the n-th time.
func sleptMemory(sleeps int) memory {
	mem := sleptBase()
	for n, pages := range [][2]int{{0, 40}, {40, 75}, {100, 120}}[:sleeps] {
		for page := pages[0]; page < pages[1]; page++ {
			mem.fill(page, uint64(n+3))
		}
		clear(mem[(90+n)*segment.Page : (93+n)*segment.Page])
	}
	return mem
}

// slept is an instance over a base that slept three times, with a packed segment, a raw one
// and zeros over the base. p is its last snapshot, and older the one before.
func slept(t testing.TB) (i *instance, mem memory, p, older segment.Place) {
	t.Helper()
	base := sleptBase()
	i = newInstance(t, quick.Dir(t), base, base.pages())
	t.Cleanup(i.close)
	var prev *segment.Map
	for n := range 3 {
		mem = sleptMemory(n + 1)
		older, p = p, i.place()
		prev = must(p.Save(t.Context(), i.sleep(mem, prev)))(t).Map
		if n == 1 {
			ok(t, p.Pack(t.Context(), prev))
		}
	}
	if len(prev.Segments) != 3 || prev.Live() != 95 {
		t.Fatal("the snapshot is", prev.Segments, prev.Live())
	}
	return i, mem, p, older
}

// files are the files of a snapshot.
func (i *instance) files(p segment.Place) (paths []string) {
	for _, dir := range []string{p.Own.Path(), i.segments.Path()} {
		all := must(filepath.Glob(dir + "/*"))(i.t)
		paths = append(paths, all...)
	}
	return paths
}

// TestBitFlips: a bit of any file that is not what it was is noticed, or makes no difference.
func TestBitFlips(t *testing.T) {
	i, mem, p, _ := slept(t)
	paths := i.files(p)
	if len(paths) != 5 {
		t.Fatal("files", paths)
	}
	rng, harmless := rand.New(rand.NewPCG(11, 15)), 0
	for n := range *flips {
		path := paths[n%len(paths)]
		old := must(os.ReadFile(path))(t)
		bit := rng.IntN(len(old) * 8)
		switch n / len(paths) % 4 {
		case 0: // in the heads, which are a small part
			bit = rng.IntN(2)*4096*8 + rng.IntN(96*8)
		case 1, 2: // behind them
			bit = 8192*8 + rng.IntN((len(old)-8192)*8)
		}
		b := bytes.Clone(old)
		b[bit/8] ^= 1 << (bit % 8)
		ok(t, os.WriteFile(path, b, 0o600))
		got, _, err := i.wake(p)
		switch {
		case err == nil && bytes.Equal(got, mem):
			harmless++
		case err == nil:
			t.Fatalf("bit %d of %s: another memory", bit, path)
		case sealed.ReasonOf(err) == "" || !mvm.IsKind(err, mvm.KindState):
			t.Fatalf("bit %d of %s: %v, which is not about the snapshot", bit, path, err)
		case !strings.Contains(err.Error(), path):
			t.Fatalf("bit %d of %s: the error names another file: %v", bit, path, err)
		}
		ok(t, os.WriteFile(path, old, 0o600))
	}
	i.wantWake(t, "with all bits as they were", p, mem)
	t.Logf("%d of %d bits were harmless, all others were noticed", harmless, *flips)
}

// TestWhatIsNotTheSnapshot: every way in which files are not those of the snapshot has a
// reason of its own, in an error that names the file, and the memory is not restored.
func TestWhatIsNotTheSnapshot(t *testing.T) {
	i, mem, p, older := slept(t)
	own, m := p.Own.Path()+"/", i.wantWake(t, "whole", p, mem)
	seg := func(n int) string { return i.segments.Path() + "/" + m.Segments[n].Name }
	other, _, q, _ := slept(t) // of another tenant
	stranger := q.Own.Path() + "/"
	for name, c := range map[string]struct {
		do   func()
		want sealed.Reason
		file string
	}{
		"no map":                       {func() { ok(t, os.Remove(own+"map")) }, sealed.Missing, own + "map"},
		"no device state":              {func() { ok(t, os.Remove(own+"device")) }, sealed.Missing, own + "device"},
		"no segment":                   {func() { ok(t, os.Remove(seg(0))) }, sealed.Missing, seg(0)},
		"an empty map":                 {func() { ok(t, os.Truncate(own+"map", 0)) }, sealed.Damaged, own + "map"},
		"a map cut off":                {func() { cut(t, own+"map", -1) }, sealed.Damaged, own + "map"},
		"a device state cut off":       {func() { cut(t, own+"device", -17) }, sealed.Damaged, own + "device"},
		"a raw segment cut off":        {func() { cut(t, seg(2), -4096) }, sealed.Damaged, seg(2)},
		"a packed segment cut off":     {func() { cut(t, seg(0), -1) }, sealed.Damaged, seg(0)},
		"a segment cut to its heads":   {func() { cut(t, seg(0), 8192) }, sealed.Damaged, seg(0)},
		"a longer raw segment":         {func() { cut(t, seg(2), +16) }, sealed.Damaged, seg(2)},
		"a longer packed segment":      {func() { cut(t, seg(1), +1) }, sealed.Damaged, seg(1)},
		"segments swapped":             {func() { swap(t, seg(0), seg(2)) }, sealed.Damaged, seg(0)},
		"packed segments swapped":      {func() { swap(t, seg(0), seg(1)) }, sealed.Damaged, seg(0)},
		"an older map":                 {func() { swap(t, own+"map", older.Own.Path()+"/map") }, sealed.Damaged, own + "map"},
		"an older device state":        {func() { swap(t, own+"device", older.Own.Path()+"/device") }, sealed.Damaged, own + "device"},
		"the device state for the map": {func() { swap(t, own+"device", own+"map") }, sealed.Damaged, own + "map"},
		"another tenant's map":         {func() { swap(t, own+"map", stranger+"map") }, sealed.OtherKey, own + "map"},
		"another key":                  {func() { p.Key = newKey(t) }, sealed.OtherKey, own + "map"},
		"another snapshot's id":        {func() { p.ID = "s-0badf00d" }, sealed.Damaged, own + "map"},
		"another base":                 {func() { i.base.Digest[0] ^= 1 }, sealed.OtherBase, own + "map"},
		"a smaller memory":             {func() { i.zero = i.zero[:149*segment.Page] }, sealed.OtherMemory, own + "map"},
		"a larger memory":              {func() { i.zero = append(i.zero, make([]byte, segment.Page)...) }, sealed.OtherMemory, own + "map"},
		"a device state sealed again":  {func() { sealDevice(t, p) }, sealed.Damaged, own + "device"},
		"a later version":              {func() { version(t, seg(1), 2) }, sealed.OtherVersion, seg(1)},
	} {
		t.Run(name, func(t *testing.T) {
			was, before, saved := *i, p, map[string][]byte{}
			for _, path := range slices.Concat(i.files(p), i.files(older), other.files(q)) {
				saved[path] = must(os.ReadFile(path))(t)
			}
			c.do()
			_, _, err := i.wake(p)
			if got := sealed.ReasonOf(err); got != c.want || !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), c.file+":") {
				t.Errorf("%q of %v, want %q of %s", got, err, c.want, c.file)
			}
			*i, p = was, before
			for path, b := range saved {
				ok(t, os.WriteFile(path, b, 0o600))
			}
			i.wantWake(t, "afterwards", p, mem)
		})
	}
}

// cut makes a file so long, or by so much longer or shorter.
func cut(t *testing.T, path string, n int64) {
	t.Helper()
	if n <= 4096 {
		n += must(os.Stat(path))(t).Size()
	}
	ok(t, os.Truncate(path, n))
}

func swap(t *testing.T, a, b string) {
	t.Helper()
	ok(t, os.Rename(a, a+".swap"))
	ok(t, os.Rename(b, a))
	ok(t, os.Rename(a+".swap", b))
}

// sealDevice seals another state as the snapshot's, as a sleep before would have that was cut off.
func sealDevice(t *testing.T, p segment.Place) {
	t.Helper()
	w := must(sealed.Create(p.Own, "device", p.Key, sealed.Meta{Kind: sealed.Device, Bound: p.ID + "/device", Limit: 1 << 20}))(t)
	n := must(w.Fill(strings.NewReader("Device state")))(t)
	ok(t, w.Commit(n))
}

// version writes another version to both heads of a file.
func version(t *testing.T, path string, v byte) {
	t.Helper()
	b := must(os.ReadFile(path))(t)
	b[8], b[4096+8] = v, v
	ok(t, os.WriteFile(path, b, 0o600))
}

// TestHostFaultsAreNotTheSnapshots: what the host lacks, and what mvm did not make, says
// nothing about the snapshot.
func TestHostFaultsAreNotTheSnapshots(t *testing.T) {
	i, mem, p, _ := slept(t)
	path := p.Own.Path() + "/device"
	ok(t, os.Rename(path, path+".away"))
	ok(t, os.Symlink(path+".away", path))
	_, _, err := i.wake(p)
	if sealed.ReasonOf(err) != "" || !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("a link in place of the device state: %v", err)
	}
	ok(t, os.Rename(path+".away", path))
	s := must(p.Load(i.base.Digest, uint32(mem.pages())))(t)
	defer s.Close()
	err = s.Inject(t.Context(), func(context.Context, []segment.Piece) error { return errTest })
	if sealed.ReasonOf(err) != "" || err == nil || !strings.Contains(err.Error(), p.ID) {
		t.Errorf("the memory can't be written to: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"inject": s.Inject(canceled, memory(bytes.Clone(mem)).write),
		"pack":   p.Pack(canceled, s.Map()),
		"save": func() error {
			_, err := i.place().Save(canceled, i.sleep(mem, s.Map()))
			return err
		}(),
	} {
		if !mvm.IsKind(err, mvm.KindCanceled) {
			t.Errorf("%s, called off: %v", what, err)
		}
	}
}

// TestRequestsThatFitNothing: a sleep that contradicts itself is refused before anything is
// written.
func TestRequestsThatFitNothing(t *testing.T) {
	i, mem, p, _ := slept(t)
	prev := i.wantWake(t, "whole", p, mem)
	for name, change := range map[string]func(*segment.Place, *segment.Sleep){
		"a snapshot that is there": func(q *segment.Place, _ *segment.Sleep) { *q = p },
		"pages out of order": func(_ *segment.Place, s *segment.Sleep) {
			s.Changed = []segment.Run{{Page: 3, Count: 2}, {Page: 4, Count: 1}}
		},
		"an empty run":           func(_ *segment.Place, s *segment.Sleep) { s.Changed = []segment.Run{{Page: 3}} },
		"pages beyond the end":   func(_ *segment.Place, s *segment.Sleep) { s.Changed = []segment.Run{{Page: 149, Count: 2}} },
		"runs that wrap around":  func(_ *segment.Place, s *segment.Sleep) { s.Changed = []segment.Run{{Page: 2, Count: 1<<32 - 1}} },
		"another base":           func(_ *segment.Place, s *segment.Sleep) { s.Base.Digest[3]++ },
		"a memory of other size": func(_ *segment.Place, s *segment.Sleep) { s.Pages++ },
	} {
		s, q := i.sleep(mem, prev), i.place()
		change(&q, &s)
		if _, err := q.Save(t.Context(), s); !mvm.IsKind(err, mvm.KindInternal) || !strings.Contains(err.Error(), "save snapshot "+q.ID) {
			t.Errorf("%s: %v", name, err)
		}
		i.wantWake(t, name, p, mem)
		if names := must(q.Own.Names())(t); q.ID != p.ID && len(names) > 0 {
			t.Errorf("%s: left %v", name, names)
		}
	}
}

// TestNothingInTheClear: neither pages nor device state nor where they are can be read in
// any file, packed or not, and files are their owner's alone.
func TestNothingInTheClear(t *testing.T) {
	i, _, _, _ := slept(t)
	mem := bytes.Clone(i.zero)
	marker := []byte("this is a tenant's secret")
	for n := range 40 {
		copy(mem[n*segment.Page+100*n:], marker)
	}
	p := i.place()
	s := i.sleep(mem, nil)
	s.Device = bytes.NewReader(bytes.Repeat(marker, 9000))
	saved := must(p.Save(t.Context(), s))(t)
	look := func(when string) {
		for _, path := range i.files(p) {
			b := must(os.ReadFile(path))(t)
			if bytes.Contains(b, marker) || bytes.Contains(b, i.base.Digest[:8]) || bytes.Contains(b, marker[:12]) {
				t.Errorf("%s %s has it in the clear", when, path)
			}
			if mode := must(os.Stat(path))(t).Mode(); mode != 0o600 {
				t.Errorf("%s %s has mode %v", when, path, mode)
			}
		}
	}
	look("asleep")
	ok(t, p.Pack(t.Context(), saved.Map))
	look("packed")
	ok(t, p.Rewrap(uint32(i.zero.pages()), newKey(t)))
	look("wrapped anew")
	if _, _, err := i.wake(p); sealed.ReasonOf(err) != sealed.OtherKey {
		t.Errorf("with the key from before: %v", err)
	}
}

// TestManySleeps: sleeps that each change other pages do not add up to more files than a wake
// can open, and what a sleep writes again stays small.
func TestManySleeps(t *testing.T) {
	const pages = 4000
	i := newInstance(t, quick.Dir(t), nil, pages)
	t.Cleanup(i.close)
	mem := bytes.Clone(i.zero)
	var prev *segment.Map
	var p segment.Place
	written, moved, most := 0, 0, 0
	for n := range 120 {
		for page := n * 30; page < n*30+30; page++ {
			memory(mem).fill(page, 5)
		}
		p = i.place()
		saved := must(p.Save(t.Context(), i.sleep(mem, prev)))(t)
		prev, written, moved, most = saved.Map, written+saved.Written, moved+saved.Moved, max(most, len(saved.Map.Segments))
		must(segment.Sweep(i.segments, prev))(t)
	}
	i.wantWake(t, "after many sleeps", p, mem)
	if most > 32 || written != 3600 || moved > 2*written {
		t.Errorf("%d segments, %d pages written, %d again", most, written, moved)
	}
}

// TestPackedWithoutAMap: a snapshot whose map nobody told Pack of is noticed to be damaged, and
// never restored with zeros in place of its pages.
func TestPackedWithoutAMap(t *testing.T) {
	i, mem, p, _ := slept(t)
	m := i.wantWake(t, "the newer", p, mem)
	for n := range 9 { // dead in the newest map, in a segment that stays
		memory(mem).fill(n+100, 77)
	}
	q := i.place()
	saved := must(q.Save(t.Context(), i.sleep(mem, m)))(t)
	ok(t, q.Pack(t.Context(), saved.Map))
	i.wantWake(t, "the newest", q, mem)
	if _, _, err := i.wake(p); sealed.ReasonOf(err) != sealed.Damaged || !strings.Contains(err.Error(), "is not what the map says") {
		t.Errorf("a snapshot without its pages: %v", err)
	}
}

// TestSharedSegments: a snapshot that was set aside keeps its segments as long as its map is
// told of, and pages that only it needs are packed with the others.
func TestSharedSegments(t *testing.T) {
	i, mem, p, older := slept(t)
	m := i.wantWake(t, "the newer", p, mem)
	before, om, err := i.wake(older)
	ok(t, err)
	for n := range 20 { // dead in the newer map
		memory(mem).fill(n, 77)
	}
	q := i.place()
	saved := must(q.Save(t.Context(), i.sleep(mem, m)))(t)
	ok(t, q.Pack(t.Context(), saved.Map, om))
	removed := must(segment.Sweep(i.segments, saved.Map, om))(t)
	i.wantWake(t, "the newest", q, mem)
	i.wantWake(t, "set aside", older, before)
	i.wantSegments(t, "swept", saved.Map, om)
	if removed = append(removed, must(segment.Sweep(i.segments, saved.Map))(t)...); len(removed) == 0 {
		t.Error("nothing was swept")
	}
	i.wantSegments(t, "swept again", saved.Map)
	i.wantWake(t, "the newest", q, mem)
	ok(t, os.WriteFile(i.segments.Path()+"/seg-00.new", []byte("cut off"), 0o600))
	must(segment.Sweep(i.segments))(t)
	i.wantSegments(t, "of nobody")
}
