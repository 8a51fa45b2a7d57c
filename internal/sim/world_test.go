package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/network/fakenet"
	"mvm/internal/secrets"
	"mvm/internal/testenv/quick"
)

// What can become of an update of the store, beside its success.
const (
	fateNone      = iota
	fateFull      // the disk is full
	fateDieBefore // the agent dies before anything is durable
	fateDieAfter  // it dies when all is durable
)

// faults are how likely things go wrong, in thousandths.
type faults struct {
	fail, slow, full, die int
	slowest               time.Duration
}

// world is a host with everything that happens to it, by one seed.
type world struct {
	seed  uint64
	rng   *rand.Rand
	later *rand.Rand // of next wakes
	ids   *seeded
	s     *sched
	dir   string
	run   string
	host  *fake.Host
	net   *fakenet.Network
	key   *secrets.Key
	socks *sockets
	began time.Time

	life   *life
	lives  int
	faults faults
	lacks  error       // what the host lacks to run VMMs; nil: nothing
	dirty  atomic.Bool // the store changed since it was looked at
	cmds   map[int]*command
	nextID int
	model  model
	trace  trace

	spinAt   time.Time // when the present moment began, and the moves before it
	spinFrom int64

	steps, deaths int // so far: what the world did, and agents that died

	mu      sync.Mutex
	fate    int
	died    string // where an agent died by itself
	failure string
	done    []*command
	builds  map[string]time.Time // when a digest was returned by a build last
}

// Bounds of one world.
const (
	maxInFlight = 6
	calmEvery   = 60 // steps between two rests
)

func newWorld(t testing.TB, seed uint64) *world {
	key, err := secrets.NewKey([]byte(strings.Repeat("k", secrets.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	dir := quick.Dir(t)
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), later: rand.New(rand.NewPCG(seed, 2)), ids: newSeeded(seed), s: newSched(), dir: filepath.Join(dir, "d"),
		run: filepath.Join(dir, "r"), host: fake.NewHost(), net: fakenet.New(), key: key,
		socks: &sockets{by: map[string]*socket{}}, began: time.Now(), cmds: map[int]*command{}, builds: map[string]time.Time{}, model: newModel()}
	w.trace.began = w.began
	w.host.OnRequest(func(id, request string) { w.s.park(nil, atGuest, request, id) })
	return w
}

// run lets the world do so many steps, and brings it to rest now and then.
func (w *world) runSteps(steps int) {
	w.boot()
	next := calmEvery
	for w.failed() == "" && w.steps < steps {
		w.turn()
		if w.steps >= next {
			next += calmEvery
			w.calm()
		}
	}
	if w.failed() == "" {
		w.calm()
		w.faults, w.lacks = faults{}, nil
		w.epilogue()
	}
	w.shutDown()
}

// turn is one choice: a goroutine goes on, the world does something, or time passes.
func (w *world) turn() {
	w.settle()
	pts := w.s.points()
	w.checkSpin()
	roll := w.rng.IntN(100)
	switch {
	case w.failed() != "":
	case len(pts) > 0 && (roll < 92 || len(w.cmds) >= maxInFlight && roll < 98):
		w.letGo(pts[w.rng.IntN(len(pts))])
	case len(pts) == 0 && (roll < 60 || len(w.cmds) >= maxInFlight):
		w.pass(time.Duration(1+w.rng.IntN(20_000)) * time.Millisecond)
	default:
		w.steps++
		w.act()
	}
}

// settle waits until every goroutine is parked or blocked, takes note of what ended,
// and checks.
func (w *world) settle() {
	synctest.Wait()
	select {
	case <-w.s.arrived:
	default:
	}
	w.finishCommands()
	w.lifecycle()
	w.check()
}

// lifecycle takes up where an agent died or ended.
func (w *world) lifecycle() {
	w.mu.Lock()
	died := w.died
	w.died = ""
	w.mu.Unlock()
	l := w.life
	switch {
	case died != "":
		w.noteDeath(died)
		w.bury(l)
		synctest.Wait()
	case l.is(&l.closed):
		w.abandonCommands()
		w.boot()
		synctest.Wait()
	case l.failedOpen() && !l.dead.Load():
		w.note("agent %d could not open: %s", l.n, mvm.KindOf(l.failed))
		w.bury(l)
		synctest.Wait()
	}
}

func (l *life) failedOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed != nil
}

func (w *world) noteDeath(where string) {
	w.deaths++
	w.note("agent %d dies %s", w.life.n, where)
}

// Bounds of what goes on and on: so many moves within a moment.
const (
	maxSpin = 20_000
	moment  = time.Millisecond
)

// checkSpin fails when goroutines go on and on without time passing.
func (w *world) checkSpin() {
	if now := time.Now(); now.Sub(w.spinAt) > moment {
		w.spinAt, w.spinFrom = now, w.s.moves.Load()
	}
	if w.s.moves.Load()-w.spinFrom > maxSpin {
		w.fail("%d moves within %s: something spins", maxSpin, moment)
	}
}

// letGo releases a point, with what becomes of it. Each has an instant of its own, so
// that what several of them begin does not end at the same instant: what does has no order.
func (w *world) letGo(p *point) {
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	var v verdict
	f := w.faults
	fail, slow, full, die := w.rng.IntN(1000) < f.fail, w.rng.IntN(1000) < f.slow, w.rng.IntN(1000) < f.full, w.rng.IntN(1000) < f.die
	wait := time.Duration(1 + w.rng.Int64N(int64(max(f.slowest, time.Millisecond))))
	errNo := w.rng.IntN(len(faultErrors))
	what := ""
	w.setFate(fateNone)
	switch p.what {
	case atStore:
		if p.name == "begin" && (full || die) {
			fate := fateFull
			if die {
				fate = fateDieBefore + w.rng.IntN(2)
			}
			w.setFate(fate)
			what = [...]string{"", " (disk full)", " (dies before commit)", " (dies after commit)"}[fate]
		}
	case atGuest:
	default:
		if die && p.life != nil && !p.life.dead.Load() {
			w.note("%s", p.key)
			w.noteDeath("at " + p.name)
			p.life.dead.Store(true)
			w.bury(p.life)
			return
		}
		// Nothing is left to fail of a step that ended with its commit.
		if w.lacks != nil && p.what == atDriver && slices.Contains(needsHost, fake.Op(p.name)) {
			v.err = w.lacks
			what = " lacks something"
		} else if fail && !strings.HasSuffix(p.name, ".open:after") && !strings.HasSuffix(p.name, ".commit:after") {
			v.err = faultErrors[errNo]
			what = " fails"
		} else if slow && p.what != atSeam {
			v.wait = wait
			what = " takes " + wait.Round(time.Millisecond).String()
		}
	}
	w.note("%s%s", p.key, what)
	w.s.release(p, v)
}

// faultErrors are what fails with.
var faultErrors = []error{
	mvm.Errorf(mvm.KindUnavailable, "does not answer, on purpose"),
	mvm.Errorf(mvm.KindInternal, "write: %w", syscall.ENOSPC),
	mvm.Errorf(mvm.KindInternal, "broken on purpose"),
}

// pass lets time go by, until somebody wants to act or the most of it is over.
func (w *world) pass(most time.Duration) {
	t := time.NewTimer(w.odd(most))
	defer t.Stop()
	select {
	case <-w.s.arrived:
	case <-t.C:
	}
}

func (w *world) setFate(f int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fate = f
}

// takeFate returns the fate of the update under way if it is one of these.
func (w *world) takeFate(of ...int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(of, w.fate) {
		return fateNone
	}
	f := w.fate
	w.fate = fateNone
	return f
}

func (w *world) diedAt(where string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.died = where
}

// shutDown ends everything, so that no goroutine is left.
func (w *world) shutDown() {
	w.s.setOff(true)
	l := w.life
	w.bury(l)
	for _, p := range w.s.points() {
		w.s.release(p, verdict{})
	}
	for range 200 {
		synctest.Wait()
		if l.is(&l.closed) {
			break
		}
		time.Sleep(time.Second)
	}
	w.abandonCommands()
	w.host.Close()
	_ = w.net.Close()
	synctest.Wait()
}

// command is something that somebody asked the agent for.
type command struct {
	n      int
	name   string
	life   *life
	began  time.Time
	cancel context.CancelFunc
	err    error
	ended  bool // it came back by itself
	after  func(err error)
	dooms  string // the address of what it destroys
}

// commandTime is how long who asks waits at most.
const commandTime = 20*time.Minute + 61

// issue has a command run, in the name of by; after is called when it came back.
func (w *world) issue(by mvm.Asker, name string, fn func(ctx context.Context, l *life) error, after func(error)) {
	l := w.life
	w.nextID++
	c := &command{n: w.nextID, name: name, life: l, began: time.Now(), after: after}
	w.note("command %d: %s by %s", c.n, name, by)
	w.cmds[c.n] = c
	ctx, cancel := context.WithTimeout(l.ctx, commandTime)
	c.cancel = cancel
	go func() {
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.done = append(w.done, c)
		}()
		w.s.own(fmt.Sprint("command ", c.n))
		err := fn(mvm.WithAsker(ctx, by), l)
		c.err, c.ended = err, true
	}()
}

// finishCommands takes note of the commands that came back.
func (w *world) finishCommands() {
	w.mu.Lock()
	done := w.done
	w.done = nil
	w.mu.Unlock()
	slices.SortFunc(done, func(a, b *command) int { return a.n - b.n })
	for _, c := range done {
		c.cancel()
		delete(w.cmds, c.n)
		switch {
		case !c.ended || c.life.dead.Load():
			w.note("command %d ended with its agent", c.n)
		default:
			w.note("command %d: %s", c.n, outcome(c.err))
			if c.err != nil {
				w.trace.add(fmt.Sprintf("    %v", c.err), false)
			}
			if c.after != nil && !c.life.dead.Load() {
				c.after(c.err)
			}
		}
	}
}

func outcome(err error) string {
	if err == nil {
		return "done"
	}
	return string(mvm.KindOf(err))
}

// abandonCommands: who waits for an agent that is gone gets an error.
func (w *world) abandonCommands() {
	for _, c := range w.cmds {
		c.cancel()
	}
	synctest.Wait()
	w.finishCommands()
}
