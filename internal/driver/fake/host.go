package fake

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// Host plays the machine: VMMs live in it and outlive the agent's drivers. It is
// safe for concurrent use.
type Host struct {
	mu         sync.Mutex
	machines   map[string]*machine
	behaviors  map[string]Behavior
	knobs      string // a file, see Follow
	listeners  map[string]map[uint32]func(net.Conn)
	routers    func(id string) Router
	violations []string
	trace      []string
	onRequest  func(id, request string)

	handlers sync.WaitGroup
}

// maxTrace bounds what Trace keeps.
const maxTrace = 20000

// NewHost returns a host without VMMs.
func NewHost() *Host {
	return &Host{
		machines:  map[string]*machine{},
		behaviors: map[string]Behavior{},
		listeners: map[string]map[uint32]func(net.Conn){},
	}
}

// Behave sets how the instance's guest behaves from now on, now or when it comes
// to be; the empty id stands for every instance that has none of its own.
func (h *Host) Behave(id string, b Behavior) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.behaviors[id] = b
}

func (h *Host) behavior(id string) Behavior {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.behaviors[id]; ok {
		return b
	}
	if h.knobs != "" {
		if b, ok := knobBehavior(h.knobs, id); ok {
			return b
		}
	}
	return h.behaviors[""]
}

// Router is what a gateway's guest routes with. Its methods may be called concurrently.
type Router interface {
	Configure(c guestproto.Configure) error
	Fence(f guestproto.Fence) int
	Peers() guestproto.Peers
	Use(instance string) (open int, last time.Time)
}

// Route has guests route with what of returns for the instance: what the host says about
// routing goes there. Where it returns nil a guest answers as its Behavior says. It is
// called with no lock held.
func (h *Host) Route(of func(id string) Router) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routers = of
}

func (h *Host) router(id string) Router {
	h.mu.Lock()
	of := h.routers
	h.mu.Unlock()
	if of == nil {
		return nil
	}
	return of(id)
}

// Listen has the instance's guest serve streams to the port with fn, in a
// goroutine per stream that the host joins when the VMM is gone. The stream closes
// when fn returns or the VMM is gone.
func (h *Host) Listen(id string, port uint32, fn func(net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[id] == nil {
		h.listeners[id] = map[uint32]func(net.Conn){}
	}
	h.listeners[id][port] = fn
}

func (h *Host) listener(id string, port uint32) func(net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listeners[id][port]
}

// Violations returns what callers did against the driver's contract, oldest first.
func (h *Host) Violations() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.violations)
}

func (h *Host) violate(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.violations = append(h.violations, fmt.Sprintf(format, args...))
}

// Trace returns what happened, oldest first: "start i-…", "guest i-… SleepPrep",
// "pause i-…". It keeps the last 20000 entries.
func (h *Host) Trace() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.trace)
}

func (h *Host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace = append(h.trace, fmt.Sprintf(format, args...))
	if len(h.trace) > maxTrace+maxTrace/4 {
		h.trace = slices.Clone(h.trace[len(h.trace)-maxTrace:])
	}
}

// VMM says what the host holds for one instance.
type VMM struct {
	ID     string
	State  State
	MemMiB int
	RunDir string
	Memory string
	// Streams counts open streams of the guest channel.
	Streams int
	// TAP: a file of a network interface is held.
	TAP bool
	// Limits are those in force.
	Limits mvm.Limits
}

// VMMs returns the VMMs that run or are paused, by id.
func (h *Host) VMMs() []VMM {
	var vmms []VMM
	for _, m := range h.all() {
		vmms = append(vmms, m.describe())
	}
	slices.SortFunc(vmms, func(a, b VMM) int { return strings.Compare(a.ID, b.ID) })
	return vmms
}

// Crash ends the instance's VMM as a kill -9 from outside would, and reports
// whether there was one.
func (h *Host) Crash(id string) bool {
	m := h.lookup(id)
	return m != nil && m.end(driver.Exit{Signal: 9, Detail: "killed from outside"}, false)
}

// Poweroff has the instance's guest power off by itself, and reports whether there
// was one.
func (h *Host) Poweroff(id string) bool {
	m := h.lookup(id)
	return m != nil && m.end(driver.Exit{Guest: true, Detail: "guest powered off"}, false)
}

// Reboot ends every VMM as a power loss of the machine would: nobody is told, and
// the volatile folders are as empty as a tmpfs. It waits for its goroutines.
func (h *Host) Reboot() {
	for _, m := range h.all() {
		m.end(driver.Exit{Signal: 9, Detail: "host went down"}, false)
		m.join()
		_ = removeRecord(m.spec.RunDir)
	}
}

// Close ends every VMM and waits for the host's goroutines, at a test's end. The
// VMMs' records stay in their RunDirs, as gone.
func (h *Host) Close() {
	for _, m := range h.all() {
		m.end(driver.Exit{Signal: 9, Detail: "host closed"}, false)
	}
	h.handlers.Wait()
}

func (h *Host) all() []*machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.machines), func(a, b *machine) int { return strings.Compare(a.spec.ID, b.spec.ID) })
}

func (h *Host) lookup(id string) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machines[id]
}

// add takes the machine in unless one of its id is there, which it returns then.
func (h *Host) add(m *machine) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.machines[m.spec.ID]; other != nil {
		return other
	}
	h.machines[m.spec.ID] = m
	return nil
}

func (h *Host) remove(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines[m.spec.ID] == m {
		delete(h.machines, m.spec.ID)
	}
}
