package roster

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"mvm/internal/guest/gateway/group"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

// Host is what a roster asks of the host, over port 53. Its methods may be called
// concurrently, and return soon after their context ends.
type Host interface {
	// Acquire has an instance awake. An error means that the host gave no answer; its
	// refusal is an AcquireResult without success.
	Acquire(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error)
	ReportActivity(ctx context.Context, r guestproto.ReportActivity) error
}

// Options are what a roster works with.
type Options struct {
	Log    *slog.Logger
	Host   Host
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Now    func() time.Time
	Limits Limits
}

// Roster is what the router knows of instances: which are awake, what is under way
// to each, and who waits for one.
type Roster struct {
	ctx   context.Context
	group group.Group
	log   *slog.Logger
	host  Host
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	now   func() time.Time
	lim   Limits
	began time.Time     // origin of mono
	calls chan struct{} // one per question under way
	dirty chan struct{} // there is activity to report
	// sending: something is sent to an instance.
	sending chan struct{}

	mu       sync.Mutex
	tenant   string
	entries  map[Target]*entry
	workers  map[string]*worker // by instance id
	inFlight map[*call]struct{}
	held     int
}

// Target is what a request needs: an instance of the pool that has the key, or the
// address, or any. With spread every instance that is awake takes its share: the one with
// the fewest connections is next, or, inTurn, the one that waited longest.
type Target struct {
	Pool, Key string
	IP        netip.Addr
	id        string // of an open connection's own instance, which has the address
	Spread    bool
	InTurn    bool
}

// entry is what is known of a target.
type entry struct {
	backends []*backend // awake, or gone since; several only with spread
	turn     int        // of the backends, which is next
	asked    time.Duration
	call     *call // the question under way, if any
	held     int
}

// call is one question to the host. done is closed when it has been answered, and
// only then err may be read.
type call struct {
	done   chan struct{}
	err    error
	fenced map[string]bool // instances fenced meanwhile: the answer may be older
	all    bool            // every one was
}

// refreshSpread is the age at which the list of awake instances of a pool is asked
// for again, while the old one serves.
const refreshSpread = 15 * time.Second

func New(ctx context.Context, opt Options) *Roster {
	return &Roster{ctx: ctx, log: opt.Log, host: opt.Host, dial: opt.Dial, now: opt.Now, lim: opt.Limits.withDefaults(),
		began: time.Now(), calls: make(chan struct{}, maxCalls), dirty: make(chan struct{}, 1), sending: make(chan struct{}, 1),
		entries: map[Target]*entry{}, workers: map[string]*worker{}, inFlight: map[*call]struct{}{}}
}

// Start starts what runs until its context ends.
func (ro *Roster) Start() {
	ro.group.Go(ro.report)
	ro.group.Go(ro.watchSilence)
}

// mono is the time since the roster was made; it does not jump with the clock.
func (ro *Roster) mono() time.Duration { return time.Since(ro.began) }

// Configure sets the tenant and forgets the targets of pools that are not reachable any more.
func (ro *Roster) Configure(tenant string, pools map[string]bool) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.tenant = tenant
	for t, e := range ro.entries {
		if !pools[t.Pool] {
			e.backends = nil
			ro.tidy(t, e)
		}
	}
}

// Lease returns an awake instance for the target. Where none is known it asks the
// host, once for all who ask meanwhile, and waits within the bounds. The error is
// a *wire.Refusal, or ctx's.
func (ro *Roster) Lease(ctx context.Context, t Target) (*Lease, error) {
	var expired <-chan time.Time
	for asked := false; ; asked = true {
		l, c, err := ro.take(ctx, t)
		if err != nil {
			return nil, err
		}
		if l != nil {
			l.asked = asked
			return l, nil
		}
		if expired == nil {
			timer := time.NewTimer(ro.lim.Hold)
			defer timer.Stop()
			expired = timer.C
		}
		if err := ro.await(ctx, t, c, expired); err != nil {
			return nil, err
		}
	}
}

// take returns a lease, or the call to wait for, counted as held.
func (ro *Roster) take(ctx context.Context, t Target) (*Lease, *call, error) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	e := ro.entries[t]
	if e != nil {
		if b := e.next(t.InTurn); b != nil {
			if t.Spread && e.call == nil && ro.mono()-e.asked > refreshSpread {
				ro.ask(ctx, t, e)
			}
			b.w.requests++
			ro.touch(b.w)
			return &Lease{ro: ro, b: b}, nil, nil
		}
	}
	if ro.held >= ro.lim.Held || e != nil && e.held >= ro.lim.HeldPerTarget {
		return nil, nil, wire.Refused(503, wire.DefaultRetry, "too many requests are waiting for an instance")
	}
	if e == nil {
		e = &entry{}
		ro.entries[t] = e
	}
	c := e.call
	if c == nil {
		c = ro.ask(ctx, t, e)
	}
	e.held++
	ro.held++
	return nil, c, nil
}

// await waits for the call and returns its error.
func (ro *Roster) await(ctx context.Context, t Target, c *call, expired <-chan time.Time) error {
	var err error
	select {
	case <-c.done:
		err = c.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-ro.ctx.Done():
		err = wire.Refused(503, wire.DefaultRetry, "the gateway is closing")
	case <-expired:
		err = wire.Refused(503, wire.DefaultRetry, notInTime)
	}
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.held--
	if e := ro.entries[t]; e != nil { // it stays while somebody is held
		e.held--
		ro.tidy(t, e)
	}
	return err
}

// tidy forgets the entry when it says nothing. ro.mu is held.
func (ro *Roster) tidy(t Target, e *entry) {
	if e.held == 0 && e.call == nil && e.next(false) == nil {
		delete(ro.entries, t)
	}
}

// next drops the backends that are gone and returns the one with the fewest requests and
// streams, or each in turn; nil where there is none.
func (e *entry) next(inTurn bool) *backend {
	var best *backend
	kept := e.backends[:0]
	for _, b := range e.backends {
		if b.gone {
			continue
		}
		kept = append(kept, b)
		if best == nil || b.w.load() < best.w.load() {
			best = b
		}
	}
	clear(e.backends[len(kept):])
	e.backends = kept
	if inTurn && len(kept) > 1 {
		e.turn++
		return kept[e.turn%len(kept)]
	}
	return best
}

// Active counts what is under way or held.
func (ro *Roster) Active() int {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	n, now := ro.held, ro.mono()
	for _, w := range ro.workers {
		n += w.active(now, ro.lim.Quiet)
	}
	return n
}

// acquireOf is the question for a target. ro.mu is held.
func (ro *Roster) acquireOf(t Target) guestproto.Acquire {
	return guestproto.Acquire{TenantID: ro.tenant, PoolID: t.Pool, Key: t.Key, IP: t.IP, InstanceID: t.id, Spread: t.Spread}
}
