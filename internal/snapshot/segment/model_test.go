package segment_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"mvm/internal/snapshot/segment"
	"mvm/internal/testenv/quick"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MVM_SEGMENT_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	// Fewer runs than rapid's 100, where the command line says nothing. See make snapshots.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// guest is the model: the memory as it is, as it was when the guest last slept, and whether
// what it was restored from was injected over the base or mapped as a full file.
type guest struct {
	*instance
	mem, slept memory
	place      segment.Place
	prev       *segment.Map
	full       bool
}

// TestSleepsEqualTheModel: whatever a guest writes between sleeps, however it was restored,
// and whatever is done with its snapshot meanwhile, a wake restores what there was when it
// slept, in less than twice the space of the live pages.
func TestSleepsEqualTheModel(t *testing.T) {
	top := quick.Dir(t)
	rapid.Check(t, func(rt *rapid.T) {
		pages := rapid.IntRange(1, 900).Draw(rt, "pages")
		var base memory
		if rapid.Bool().Draw(rt, "base") {
			base = make(memory, pages*segment.Page)
			for n := range pages {
				if n%3 != 0 {
					base.fill(n, 1<<40)
				}
			}
		}
		dir := must(os.MkdirTemp(top, "i"))(rt)
		defer os.RemoveAll(dir)
		g := &guest{instance: newInstance(t, dir, base, pages)}
		defer g.close()
		g.workers = rapid.IntRange(1, 4).Draw(rt, "workers")
		g.mem = bytes.Clone(g.zero)
		rt.Repeat(map[string]func(*rapid.T){
			"write":  g.writes,
			"sleep":  g.sleeps,
			"fail":   g.fails,
			"pack":   g.packs,
			"rewrap": g.rewraps,
		})
	})
}

// writes changes a range of pages, to one content or each to its own.
func (g *guest) writes(t *rapid.T) {
	from := rapid.IntRange(0, g.mem.pages()-1).Draw(t, "from")
	n := rapid.IntRange(1, g.mem.pages()-from).Draw(t, "count")
	step := rapid.IntRange(1, 9).Draw(t, "step")
	seed := rapid.Uint64Range(0, 9).Draw(t, "seed")
	for page := from; page < from+n; page += step {
		switch seed {
		case 0:
			clear(g.mem.page(page))
		case 1:
			copy(g.mem.page(page), g.zero.page(page))
		case 2:
			if g.slept != nil {
				copy(g.mem.page(page), g.slept.page(page))
			}
		default:
			g.mem.fill(page, seed)
		}
	}
}

// request is a sleep as the driver would ask for it. Some pages are listed that did not change.
func (g *guest) request(t *rapid.T) segment.Sleep {
	s, since := g.sleep(g.mem, g.prev), g.zero
	if g.full {
		s.Since, since = segment.SincePrevious, g.slept
	}
	differs, more := g.mem.changed(since), rapid.IntRange(2, 50).Draw(t, "also listed")
	s.Changed = nil
	for n := range g.mem.pages() {
		if len(differs) > 0 && int(differs[0].Page+differs[0].Count) <= n {
			differs = differs[1:]
		}
		if n%more == 1 || len(differs) > 0 && int(differs[0].Page) <= n {
			s.Changed = mark(s.Changed, n)
		}
	}
	return s
}

func (g *guest) sleeps(t *rapid.T) {
	p := g.instance.place()
	saved, err := p.Save(context.Background(), g.request(t))
	ok(t, err)
	m := g.wantWake(t, "slept", p, g.mem)
	if held, live := m.Held(), m.Live(); live > 0 && held >= 2*live || live == 0 && held > 0 {
		t.Fatal("segments hold", held, "pages, of which", live, "are live")
	}
	if n := saved.Written + saved.Moved + saved.Kept; n != m.Live() || saved.Map.Live() != n {
		t.Fatal("saved", saved, "and the map has", m.Live())
	}
	if len(m.Segments) > 32 {
		t.Fatal(len(m.Segments), "segments")
	}
	_, err = segment.Sweep(g.segments, m)
	ok(t, err)
	g.wantSegments(t, "swept", m)
	g.place, g.prev, g.slept = p, m, bytes.Clone(g.mem)
	g.full = rapid.Bool().Draw(t, "full file")
}

var errTest = errors.New("the device is gone")

// broken is a memory that can be read so many times.
type broken struct {
	memory
	left atomic.Int32
}

func (b *broken) Read(ctx context.Context, pieces []segment.Piece) error {
	if b.left.Add(-1) < 0 {
		return errTest
	}
	return b.memory.Read(ctx, pieces)
}

// fails has a sleep fail, after which all is as before.
func (g *guest) fails(t *rapid.T) {
	s, ctx, want := g.request(t), context.Background(), errTest
	switch rapid.IntRange(0, 2).Draw(t, "what") {
	case 0:
		pages := 0
		for _, r := range s.Changed {
			pages += int(r.Count)
		}
		if pages == 0 {
			return
		}
		b := &broken{memory: g.mem}
		b.left.Store(rapid.Int32Range(0, int32(pages-1)/256).Draw(t, "reads"))
		s.Memory = b
	case 1:
		s.Device = io.MultiReader(bytes.NewReader(make([]byte, 70_000)), errReader{})
	case 2:
		canceled, cancel := context.WithCancelCause(ctx)
		cancel(errTest)
		ctx = canceled
	}
	p := g.instance.place()
	if _, err := p.Save(ctx, s); !errors.Is(err, want) {
		t.Fatal("a sleep that must fail:", err)
	}
	if names, err := p.Own.Names(); err != nil || len(names) > 0 {
		t.Fatal("a sleep that failed left", names, err)
	}
	if g.prev != nil {
		g.wantWake(t, "after a sleep that failed", g.place, g.slept)
		g.wantSegments(t, "after a sleep that failed", g.prev)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errTest }

func (g *guest) packs(t *rapid.T) {
	if g.prev == nil {
		return
	}
	for range 2 {
		ok(t, g.place.Pack(context.Background(), g.prev))
		g.wantWake(t, "packed", g.place, g.slept)
		g.wantSegments(t, "packed", g.prev)
	}
}

func (g *guest) rewraps(t *rapid.T) {
	if g.prev == nil {
		return
	}
	next := newKey(t)
	for range 2 {
		ok(t, g.place.Rewrap(uint32(g.mem.pages()), next))
	}
	g.key, g.place.Key = next, next
	g.wantWake(t, "wrapped anew", g.place, g.slept)
}
