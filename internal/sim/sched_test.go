package sim_test

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a parked goroutine is about to do.
const (
	atSeam   = "seam"   // a named point of an operation
	atStore  = "store"  // a transaction: begin or view
	atDriver = "driver" // an operation of the driver
	atNet    = "net"
	atImage  = "image"
	atDisk   = "disk"  // making a data disk
	atGuest  = "guest" // a guest acts on a request
)

// verdict is what becomes of a point when it is let go.
type verdict struct {
	err  error         // it fails
	wait time.Duration // it takes so long
}

// point is one parked goroutine.
type point struct {
	key     string // the same in every run of a seed
	what    string
	name    string
	id      string // the instance that it is about, or was last
	life    *life  // of the agent that passes it; nil for guests
	g       uint64 // its goroutine: the order in which they began decides where nothing else does
	verdict verdict
	free    chan struct{}
}

// sched holds the goroutines that wait to go on.
type sched struct {
	mu      sync.Mutex
	waiting []*point
	subject map[uint64]string // goroutine -> the instance that it had to do with last
	owner   map[uint64]string // goroutine -> the command that it was started for
	off     bool              // nobody parks: the simulation itself reads, or is over
	chains  map[[maxFrames]uintptr]string
	arrived chan struct{}

	moves atomic.Int64 // watched from outside, to see that it goes on
}

func newSched() *sched {
	return &sched{subject: map[uint64]string{}, owner: map[uint64]string{}, chains: map[[maxFrames]uintptr]string{}, arrived: make(chan struct{}, 1)}
}

// park waits until the scheduler lets the goroutine go on. The goroutine of an agent
// that has died ends here, as with kill -9.
func (s *sched) park(l *life, what, name, id string) verdict {
	s.mu.Lock()
	if s.off {
		s.mu.Unlock()
		l.dieIfDead()
		return verdict{}
	}
	s.mu.Unlock()
	l.dieIfDead()
	g, from := goroutine(), s.chain()
	s.inherit(g)
	s.mu.Lock()
	if id != "" {
		s.subject[g] = id
	} else {
		id = s.subject[g]
	}
	p := &point{key: what + " " + name + " " + id + " " + from + s.owner[g], what: what, name: name, id: id, life: l, g: g,
		free: make(chan struct{})}
	s.waiting = append(s.waiting, p)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	<-p.free
	l.dieIfDead()
	return p.verdict
}

// inherit has the goroutine be of the command that the one was which started it.
func (s *sched) inherit(g uint64) {
	s.mu.Lock()
	_, known := s.owner[g]
	s.mu.Unlock()
	if known {
		return
	}
	p := parent()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner[g] = s.owner[p]
}

// own names the goroutine, whose points are told from those of others that do the same.
func (s *sched) own(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner[goroutine()] = "<" + name
}

// points returns the parked points in an order that a seed always gives.
func (s *sched) points() []*point {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.waiting, func(a, b *point) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.g, b.g)) })
	return slices.Clone(s.waiting)
}

// release lets the point go on.
func (s *sched) release(p *point, v verdict) {
	s.mu.Lock()
	s.waiting = slices.DeleteFunc(s.waiting, func(o *point) bool { return o == p })
	s.mu.Unlock()
	s.moves.Add(1)
	p.verdict = v
	close(p.free)
}

// alone runs fn while nobody parks: the simulation's own looks at the store.
func (s *sched) alone(fn func()) {
	defer s.setOff(s.setOff(true))
	fn()
}

// setOff says whether nobody parks, and returns what was before.
func (s *sched) setOff(off bool) (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, s.off = s.off, off
	return was
}

// goroutine is the number of this goroutine.
func goroutine() uint64 {
	var b [32]byte
	n := runtime.Stack(b[:], false)
	text := strings.TrimPrefix(string(b[:n]), "goroutine ")
	text, _, _ = strings.Cut(text, " ")
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return id
}

// parent is the number of the goroutine that started this one.
func parent() uint64 {
	b := make([]byte, 64<<10)
	text := string(b[:runtime.Stack(b, false)])
	_, text, found := strings.Cut(text, "\ncreated by ")
	_, text, in := strings.Cut(text, " in goroutine ")
	if !found || !in {
		return 0
	}
	n, _, _ := strings.Cut(text, "\n")
	id, err := strconv.ParseUint(n, 10, 64)
	if err != nil {
		panic(err)
	}
	return id
}

const maxFrames = 24

// agentParts are the packages that make an agent.
var agentParts = []string{"agent", "declare", "deliver", "idle", "ingress", "journal", "reconcile", "session"}

// ofAgent returns the name of a function of the agent's parts.
func ofAgent(function string) (string, bool) {
	rest, ok := strings.CutPrefix(function, "mvm/internal/")
	pkg, name, _ := strings.Cut(rest, ".")
	return name, ok && slices.Contains(agentParts, pkg)
}

// chain names the functions of the agent that led here, innermost first.
func (s *sched) chain() string {
	var pcs [maxFrames]uintptr
	runtime.Callers(3, pcs[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.chains[pcs]; ok {
		return c
	}
	var names []string
	frames := runtime.CallersFrames(pcs[:])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if name, ok := ofAgent(f.Function); ok {
			name = strings.NewReplacer("(*Agent).", "", "(*operation).", "", "(*Listener).", "host:").Replace(name)
			names = append(names, name)
		}
	}
	c := fmt.Sprint(strings.Join(names, "<"))
	s.chains[pcs] = c
	return c
}
