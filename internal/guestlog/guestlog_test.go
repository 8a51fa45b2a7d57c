package guestlog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guestlog"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var day = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// guest is a guest's agent that has lines, and an instance's folder on the host.
type guest struct {
	t     testing.TB
	dir   string
	boot  int
	old   bool // an agent from before lines had numbers
	log   slog.Handler
	mu    sync.Mutex
	lines []guestproto.LogLine
	grown chan struct{}
	dials int
	uses  int // of the folder
	asked guestproto.Logs
	conns []net.Conn
	serve func(conn net.Conn) // where set, instead of what a good guest does
	full  error               // what using the folder fails with
}

func newGuest(t testing.TB) *guest {
	t.Helper()
	return &guest{t: t, dir: t.TempDir(), boot: 1, grown: make(chan struct{}), log: slog.DiscardHandler}
}

func (g *guest) say(texts ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, text := range texts {
		n := len(g.lines) + 1
		g.lines = append(g.lines, guestproto.LogLine{Seq: uint64(n), Time: day.Add(time.Duration(n) * time.Second), Service: "main", Stream: "stdout", Text: text})
	}
	close(g.grown)
	g.grown = make(chan struct{})
}

// reboot begins a boot that has said nothing.
func (g *guest) reboot() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot++
	g.lines = nil
}

func (g *guest) dial(context.Context) (net.Conn, error) {
	host, side := net.Pipe()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials++
	g.conns = append(g.conns, side)
	serve := g.answer
	if g.serve != nil {
		serve = g.serve
	}
	go func() {
		defer side.Close()
		var req guestproto.Request
		if guestproto.Receive(side, &req) != nil || req.Logs == nil || !req.Logs.Follow {
			return
		}
		g.mu.Lock()
		g.asked = *req.Logs
		g.mu.Unlock()
		serve(side)
	}()
	return host, nil
}

func (g *guest) answer(conn net.Conn) {
	g.mu.Lock()
	next := 0
	if !g.old {
		next = int(g.asked.After)
	}
	g.mu.Unlock()
	for {
		g.mu.Lock()
		more, grown := g.lines[min(next, len(g.lines)):], g.grown
		g.mu.Unlock()
		for _, l := range more {
			if g.old {
				l.Seq = 0
			}
			if guestproto.Send(conn, guestproto.Response{LogLine: &l}) != nil {
				return
			}
			next++
		}
		if len(more) > 0 {
			continue
		}
		gone := make(chan struct{})
		go func() { defer close(gone); _, _ = conn.Read(make([]byte, 1)) }()
		select {
		case <-grown:
			_ = conn.SetReadDeadline(time.Unix(1, 0))
			<-gone
			_ = conn.SetReadDeadline(time.Time{})
		case <-gone:
			return
		}
	}
}

func (g *guest) in(fn func(*sys.Folder) error) error {
	g.mu.Lock()
	full := g.full
	g.uses++
	g.mu.Unlock()
	if full != nil {
		return full
	}
	return sys.InFolder(g.dir, fn)
}

func (g *guest) collect() *guestlog.Collector {
	c := guestlog.Start(guestlog.Options{Boot: g.boot, Dial: g.dial, In: g.in, Log: slog.New(g.log)})
	c.Follow(0)
	return c
}

// vmmEnds ends the guest's streams, as the end of its VMM does.
func (g *guest) vmmEnds() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

func (g *guest) kept(q guestlog.Query) (texts []string) {
	g.t.Helper()
	err := sys.InFolder(g.dir, func(d *sys.Folder) error {
		return guestlog.Read(d, q, func(l guestlog.Line) error {
			texts = append(texts, l.Text)
			return nil
		})
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return texts
}

// await waits until the lines are kept.
func (g *guest) await(c *guestlog.Collector, want ...string) {
	g.t.Helper()
	testenv.Eventually(g.t, time.Minute, func() error {
		c.Flush()
		if got := g.kept(guestlog.Query{Boot: g.boot}); strings.Join(got, "|") != strings.Join(want, "|") {
			return fmt.Errorf("kept are %q, want %q", got, want)
		}
		return nil
	})
}

func TestLinesOutliveTheGuest(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%v", old), func(t *testing.T) {
			g := newGuest(t)
			g.old = old
			g.say("one", "two")
			c := g.collect()
			g.await(c, "one", "two")
			g.say("three")
			g.await(c, "one", "two", "three")
			// The agent restarts: nothing twice, whether or not the guest has numbers.
			c.End(0)
			g.say("four")
			c = g.collect()
			g.await(c, "one", "two", "three", "four")
			g.say("last words")
			g.await(c, "one", "two", "three", "four", "last words")
			g.vmmEnds()
			c.End(time.Minute)
			if got := g.kept(guestlog.Query{}); len(got) != 5 {
				t.Errorf("kept are %q", got)
			}
			// The next boot has lines of its own, and the one before stays.
			g.reboot()
			g.say("again")
			c = g.collect()
			g.await(c, "again")
			c.End(0)
			for _, q := range []struct {
				guestlog.Query
				want string
			}{
				{guestlog.Query{}, "again"},
				{guestlog.Query{Boot: 2}, "again"},
				{guestlog.Query{Boot: 3}, ""},
				{guestlog.Query{Boot: 2, Previous: true}, "one|two|three|four|last words"},
				{guestlog.Query{Previous: true}, "one|two|three|four|last words"},
				{guestlog.Query{Boot: 3, Previous: true}, "again"},
				{guestlog.Query{Boot: 1, Previous: true}, ""},
				{guestlog.Query{Previous: true, Tail: 2}, "four|last words"},
				{guestlog.Query{Previous: true, Since: day.Add(4 * time.Second)}, "four|last words"},
				{guestlog.Query{Previous: true, Since: day.Add(4 * time.Second), Tail: 1, Service: "main"}, "last words"},
			} {
				if got := strings.Join(g.kept(q.Query), "|"); got != q.want {
					t.Errorf("%+v gives %q, want %q", q.Query, got, q.want)
				}
			}
			// And the one before that goes.
			g.reboot()
			g.say("third")
			c = g.collect()
			g.await(c, "third")
			c.End(0)
			if got := strings.Join(g.kept(guestlog.Query{Previous: true}), "|"); got != "again" {
				t.Errorf("the boot before the third is %q", got)
			}
		})
	}
}

// What came within a moment of the VMM's end, and was not read by then, is taken.
func TestLastWords(t *testing.T) {
	g := newGuest(t)
	g.serve = func(conn net.Conn) {
		for n := range 500 {
			if err := guestproto.Send(conn, guestproto.Response{LogLine: &guestproto.LogLine{Seq: uint64(n + 1), Text: strings.Repeat("x", 8<<10)}}); err != nil {
				t.Error(err)
				return
			}
		}
	}
	c := g.collect()
	testenv.Eventually(t, time.Minute, func() error {
		if !g.followed() {
			return errors.New("not followed")
		}
		return nil
	})
	c.End(time.Minute) // also past the limit of the rate
	var last uint64
	must(t, sys.InFolder(g.dir, func(d *sys.Folder) error {
		return guestlog.Read(d, guestlog.Query{Tail: 1}, func(l guestlog.Line) error { last = l.Seq; return nil })
	}))
	if last != 500 {
		t.Errorf("the last line kept is %d of 500", last)
	}
}

// followed reports that the guest was asked for its lines.
func (g *guest) followed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked.Follow
}

func (g *guest) dialsNow() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dials
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sizes of the files that are kept, and whether each ends in a whole line.
func (g *guest) sizes() map[string]int64 {
	g.t.Helper()
	all := map[string]int64{}
	entries, err := os.ReadDir(g.dir)
	must(g.t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(g.dir, e.Name()))
		must(g.t, err)
		all[e.Name()] = int64(len(b))
		if len(b) > 0 && b[len(b)-1] != '\n' {
			g.t.Errorf("%s ends within a line", e.Name())
		}
	}
	return all
}

func TestFilesAreBounded(t *testing.T) { synctest.Test(t, filesAreBounded) }

func filesAreBounded(t *testing.T) {
	g := newGuest(t)
	for boot := range 3 {
		for n := range 400 {
			g.say(fmt.Sprintf("%d/%d %s", boot, n, strings.Repeat("<\x01>", 2000))) // 6000 bytes, 16000 as JSON
		}
		c := g.collect()
		time.Sleep(10 * time.Minute) // its rate is limited
		synctest.Wait()
		c.End(0)
		g.reboot()
	}
	sizes := g.sizes()
	if len(sizes) != len(guestlog.Names()) {
		t.Errorf("files are %v, want %v", sizes, guestlog.Names())
	}
	for name, n := range sizes {
		if n > guestlog.MaxFile || n < guestlog.MaxFile/4 {
			t.Errorf("%s has %d bytes", name, n)
		}
	}
	for _, q := range []guestlog.Query{{}, {Previous: true}} {
		lines := g.kept(q)
		if len(lines) < 32 || len(lines) > 70 {
			t.Errorf("%+v gives %d lines", q, len(lines))
		}
		for n, l := range lines { // without a gap, up to the last one
			if want := fmt.Sprintf("/%d ", 400-len(lines)+n); !strings.Contains(l[:8], want) {
				t.Fatalf("line %d is %.8q, want %q", n, l, want)
			}
		}
	}
}

func TestLostLinesAreTold(t *testing.T) {
	g := newGuest(t)
	g.serve = func(conn net.Conn) {
		for _, seq := range []uint64{3, 4, 10, 11} {
			_ = guestproto.Send(conn, guestproto.Response{LogLine: &guestproto.LogLine{Seq: seq, Time: day, Service: "main", Text: fmt.Sprint(seq)}})
		}
		_, _ = conn.Read(make([]byte, 1))
	}
	c := g.collect()
	g.await(c, "2 lines were lost", "3", "4", "5 lines were lost", "10", "11")
	c.End(0)
	if got := g.kept(guestlog.Query{Service: "main", Tail: 3}); strings.Join(got, "|") != "5 lines were lost|10|11" {
		t.Errorf("of the service there is %q", got)
	}
}

// A service of which nothing is kept is told from one that is.
func TestNoSuchService(t *testing.T) {
	g := newGuest(t)
	g.say("one")
	c := g.collect()
	g.await(c, "one")
	c.End(0)
	err := sys.InFolder(g.dir, func(d *sys.Folder) error {
		return guestlog.Read(d, guestlog.Query{Service: "nosuch"}, func(guestlog.Line) error { return errors.New("a line") })
	})
	if !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "there are log lines of main") {
		t.Errorf("Read = %v", err)
	}
}

func TestHostileGuests(t *testing.T) {
	huge, long := strings.Repeat("\x00", 17<<10), strings.Repeat("\x1b", 6<<10)
	far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -23*3600)) // in UTC no text has it
	lines := []guestproto.LogLine{
		{Seq: 5, Time: far, Service: long, Stream: long, Text: huge},
		{Seq: 4, Time: time.Time{}, Service: "main\n\x1b]0;", Text: "back"},
		{Seq: math.MaxUint64, Text: "most"},
		{Seq: 1, Time: day, Text: `{"boot":9,"text":"mine"}` + "\n" + `{"boot":9,"text":"mine"}` + "\xff\xfe"},
		{Seq: 1, Text: "twice"},
	}
	g := newGuest(t)
	g.serve = func(conn net.Conn) {
		for n := range lines {
			if err := guestproto.Send(conn, guestproto.Response{LogLine: &lines[n]}); err != nil {
				t.Error(err)
			}
		}
		_, _ = conn.Read(make([]byte, 1))
	}
	c := g.collect()
	testenv.Eventually(t, time.Minute, func() error {
		c.Flush()
		if got := g.kept(guestlog.Query{Boot: 1, Tail: 1}); len(got) != 1 || got[0] != "twice" {
			return errors.New("not there yet")
		}
		return nil
	})
	c.End(0)
	if n := g.sizes()["log.jsonl"]; n > 400<<10 {
		t.Errorf("%d bytes are kept of it", n)
	}
	if got := g.kept(guestlog.Query{Boot: 9}); len(got) > 0 {
		t.Errorf("a guest made lines of another boot: %q", got)
	}
	var sizes []int
	must(t, sys.InFolder(g.dir, func(d *sys.Folder) error {
		return guestlog.Read(d, guestlog.Query{}, func(l guestlog.Line) error {
			if len(l.Service) > 200 || len(l.Stream) > 200 {
				t.Errorf("a line of %d and %d bytes of names is kept", len(l.Service), len(l.Stream))
			}
			if l.Seq > 0 {
				sizes = append(sizes, len(l.Text))
			}
			return nil
		})
	}))
	if want := []int{guestproto.MaxLogText, 4, 4, len(lines[3].Text) + 4, 5}; !slices.Equal(sizes, want) { // two bytes were no text
		t.Errorf("lines of %v bytes are kept, want %v", sizes, want)
	}
	// What has the far-off time does not keep a query from the others.
	if got := g.kept(guestlog.Query{Since: day.Add(-time.Hour)}); len(got) != 1 {
		t.Errorf("since yesterday there are %d lines", len(got))
	}
}

// Frames that are none end the stream, and the guest is asked again after longer and
// longer pauses.
func TestGuestsThatBreakTheStream(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"hangs up":        func(net.Conn) {},
		"no frame":        func(c net.Conn) { _, _ = c.Write([]byte("\xff\xff\xff\xff")) },
		"no message":      func(c net.Conn) { _ = guestproto.WriteFrame(c, []byte("{]")) },
		"another message": func(c net.Conn) { _ = guestproto.Send(c, guestproto.Response{Pong: true}) },
		"refuses":         func(c net.Conn) { _ = guestproto.Send(c, guestproto.Response{Error: &guestproto.Error{Message: "no"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGuest(t)
				g.serve = serve
				c := g.collect()
				time.Sleep(time.Hour)
				synctest.Wait()
				c.End(0)
				if n := g.dialsNow(); n < 50 || n > 70 {
					t.Errorf("within an hour it was asked %d times", n)
				}
			})
		})
	}
}

// Nothing is done while no line comes: no try, no look at the disk, no timer. What came
// is written once.
func TestQuietGuestCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t)
		g.say("one")
		c := g.collect()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		uses, dials := g.usesNow(), g.dialsNow()
		if uses != 2 || dials != 1 { // one look at what is kept, one write
			t.Errorf("the folder was used %d times, the guest asked %d times", uses, dials)
		}
		if got := g.kept(guestlog.Query{}); len(got) != 1 {
			t.Errorf("kept is %q", got)
		}
		began := time.Now()
		c.End(0)
		if g.usesNow() != uses || time.Since(began) != 0 {
			t.Errorf("the end used the folder %d times and took %s", g.usesNow()-uses, time.Since(began))
		}
	})
}

// It begins after the delay, but at once for who is in a hurry; and a guest that can't be
// reached does not delay the end.
func TestFollowDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t)
		c := guestlog.Start(guestlog.Options{Boot: 1, In: g.in, Log: slog.New(g.log), Dial: g.dial})
		time.Sleep(time.Hour)
		synctest.Wait()
		if g.dialsNow() != 0 {
			t.Error("the guest is followed before it answers")
		}
		c.Follow(time.Second)
		c.Follow(time.Hour)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if g.dialsNow() != 0 {
			t.Error("the guest is followed before the delay is over")
		}
		before := 0
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if g.dialsNow() != before+1 {
			t.Error("the guest is not followed after the delay")
		}
		c.End(0)
		for _, early := range []bool{false, true} {
			before = g.dialsNow()
			c = guestlog.Start(guestlog.Options{Boot: 1, In: g.in, Log: slog.New(g.log), Dial: g.dial})
			c.Follow(time.Hour)
			if early {
				synctest.Wait()
			}
			c.Follow(0)
			synctest.Wait()
			if g.dialsNow() != before+1 {
				t.Errorf("the guest is not followed at once (early=%v)", early)
			}
			c.End(0)
		}
		began := time.Now()
		c = guestlog.Start(guestlog.Options{Boot: 1, In: g.in, Log: slog.New(g.log),
			Dial: func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }})
		c.Follow(0)
		synctest.Wait()
		c.End(time.Hour)
		if time.Since(began) != 0 {
			t.Errorf("the end took %s", time.Since(began))
		}
	})
}

// A guest that floods its log has a bounded rate of it written.
func TestFloodsAreSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t)
		const lines = 25_000
		var sent, written int64
		g.serve = func(conn net.Conn) {
			text := strings.Repeat("x", 900)
			for n := uint64(1); n < lines; n++ { // 25 MB
				if guestproto.Send(conn, guestproto.Response{LogLine: &guestproto.LogLine{Seq: n, Text: text}}) != nil {
					return
				}
				sent++
			}
		}
		c := guestlog.Start(guestlog.Options{Boot: 1, Dial: g.dial, Log: slog.New(g.log),
			In: func(fn func(*sys.Folder) error) error {
				return sys.InFolder(g.dir, func(d *sys.Folder) error {
					before, _, _ := d.Size("log.jsonl")
					err := fn(d)
					after, _, _ := d.Size("log.jsonl")
					if after < before {
						before = 0
					}
					written += after - before
					return err
				})
			}})
		c.Follow(0)
		time.Sleep(time.Minute)
		synctest.Wait()
		inMinute, of := written, sent
		began := time.Now()
		c.End(time.Hour) // what the guest has said by then is not waited for
		if took := time.Since(began); took != 0 || sent < lines*2/3 {
			t.Errorf("the end took %s and %d lines", took, sent)
		}
		if inMinute < 3<<20 || inMinute > 5<<20 { // 1 MiB, and 64 KiB a second
			t.Errorf("in a minute %d MiB were written, of %d lines", inMinute>>20, of)
		}
		for name, n := range g.sizes() {
			if n > guestlog.MaxFile {
				t.Errorf("%s has %d bytes", name, n)
			}
		}
	})
}

// warnings counts what is logged.
type warnings struct {
	slog.Handler
	n atomic.Int64
}

func (w *warnings) count() int64 { return w.n.Load() }

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		w.n.Add(1)
	}
	return nil
}

// A full disk loses lines, tells so once, and leaves no half of one.
func TestFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	g := newGuest(t)
	w := &warnings{}
	g.log = w
	must(t, unix.Mount("small", g.dir, "tmpfs", 0, "size=64k,mode=755"))
	t.Cleanup(func() { must(t, unix.Unmount(g.dir, unix.MNT_DETACH)) })
	g.say("first")
	c := g.collect()
	g.await(c, "first")
	ballast := filepath.Join(g.dir, "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	_, err = io.Copy(f, strings.NewReader(strings.Repeat("x", 1<<20)))
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
	must(t, os.Truncate(ballast, 52<<10)) // a page or so is left, less than what comes
	for n := range 3 {
		before := g.usesNow()
		g.say(strings.Repeat("y", 14000))
		testenv.Eventually(t, time.Minute, func() error {
			c.Flush()
			if w.count() == 0 || g.usesNow() <= before {
				return errors.New("nothing was tried")
			}
			return nil
		})
		if got := g.kept(guestlog.Query{}); len(got) != 1 {
			t.Fatalf("round %d: kept are %d lines", n, len(got))
		}
	}
	must(t, os.Remove(ballast))
	g.say("there is room")
	testenv.Eventually(t, time.Minute, func() error {
		c.Flush()
		got := g.kept(guestlog.Query{})
		if len(got) < 3 || got[len(got)-1] != "there is room" {
			return fmt.Errorf("kept are %.40q", got)
		}
		return nil
	})
	c.End(0)
	got := g.kept(guestlog.Query{})
	if !strings.Contains(got[1], "lost: the host could not write them") {
		t.Errorf("after the first line comes %.80q", got[1])
	}
	if w.count() != 1 {
		t.Errorf("it was logged %d times", w.count())
	}
	g.sizes()
}

func (g *guest) usesNow() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.uses
}

// Lines that a crash cut, and what else is in a file that is no line, are skipped, and
// spoil none that follows.
func TestTornLines(t *testing.T) {
	g := newGuest(t)
	g.say("one", "two")
	c := g.collect()
	g.await(c, "one", "two")
	c.End(0)
	path := filepath.Join(g.dir, "log.jsonl")
	b, err := os.ReadFile(path)
	must(t, err)
	for cut := range len(b) {
		must(t, os.WriteFile(path, b[:cut], 0o600))
		g.kept(guestlog.Query{})
		c := g.collect()
		g.await(c, "one", "two")
		c.End(0)
		if t.Failed() {
			t.Fatalf("cut at %d of %d", cut, len(b))
		}
	}
	must(t, os.WriteFile(path, append([]byte(strings.Repeat("\x00", 300<<10)+"\n{}\n[1]\nnull\n"), b...), 0o600))
	if got := g.kept(guestlog.Query{}); strings.Join(got, "|") != "one|two" {
		t.Errorf("kept are %q", got)
	}
}

// Reading goes on while files are renamed: nothing twice, nothing out of order.
func TestReadWhileItIsWritten(t *testing.T) {
	g := newGuest(t)
	for range 3 { // boots
		for n := range 1600 {
			g.say(fmt.Sprintf("%06d %s", n, strings.Repeat("x", 500)))
		}
		c := g.collect()
		for done := false; !done; {
			last := ""
			for _, l := range g.kept(guestlog.Query{Boot: g.boot}) {
				if l[:6] <= last {
					t.Fatalf("%.6s comes after %s", l, last)
				}
				last = l[:6]
			}
			c.Flush()
			done = last == "001599"
		}
		c.End(0)
		g.reboot()
	}
}

// A file that gets its other name while the files are opened is read once.
func TestRenamedFilesAreReadOnce(t *testing.T) {
	g := newGuest(t)
	g.say("one")
	c := g.collect()
	g.await(c, "one")
	c.End(0)
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		a, b := filepath.Join(g.dir, guestlog.Names()[0]), filepath.Join(g.dir, guestlog.Names()[1])
		for {
			select {
			case <-stop:
				return
			default:
				if err := errors.Join(os.Rename(a, b), os.Rename(b, a)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 1000 {
		if got := g.kept(guestlog.Query{}); len(got) > 1 {
			t.Errorf("lines were read twice: %q", got)
			break
		}
	}
	close(stop)
	<-done
}
