// Package idle puts instances to rest that nobody uses. One loop measures every instance
// that holds memory at times that its pool's settings give, has policy.Evaluate decide on
// all of them at once, and orders what it decides. It holds no state that matters: the
// next round decides anew.
package idle

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/policy"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Times and bounds of the loop that puts idle instances to rest.
const (
	minGap     = 100 * time.Millisecond // between two rounds, at least
	maxGap     = 5 * time.Second        // between two rounds, at most, as long as there are VMMs
	fresh      = 2 * time.Second        // how old a measure may be that something is decided by
	samplers   = 8                      // guests asked at once
	maxOps     = 4                      // operations of the policy at once
	firstGap   = 5 * time.Second        // from the first measure of a run to the second, at most
	answerTime = 5 * time.Second        // for a guest to say how busy it is
	retryFirst = 30 * time.Second       // after a try that failed, doubled for each more, up to
	retryMost  = 10 * time.Minute
)

// VMM is the virtual machine of an instance that holds memory.
type VMM interface {
	Stats(ctx context.Context) (driver.Stats, error)
}

// Order is an operation on an instance that the policy wants.
type Order struct {
	Op      mvm.OpKind
	Why     string
	Grounds Grounds
}

// Grounds are what a decision rests on: its operation is called off when they do not hold
// any more.
type Grounds struct {
	Changed time.Time // when the instance came to the state that was decided on
	Since   time.Time // when it became idle
	Mute    bool      // its guest has not answered for so long that its word does not count
}

// Instances are the instances of the host, as the loop needs them.
type Instances interface {
	// VMMs returns the VMMs that there are, by instance.
	VMMs() map[string]VMM
	// Use fills in who uses the instance: connections, commands.
	Use(id string, s *policy.Sample)
	// Ask asks the instance's guest.
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
	// Look is called before each measurement, to find out what else is to be known of the
	// instance. It asks its guest by Loop.Question.
	Look(ctx context.Context, i mvm.Instance)
}

// Queue takes operations on instances. Its methods do not wait.
type Queue interface {
	// Busy reports that an operation of the instance waits or is under way.
	Busy(id string) bool
	// Order queues the operation.
	Order(id string, o Order) (Job, error)
	// CalledOff reports that the operation ended so because somebody wants the instance,
	// which is no failure.
	CalledOff(err error) bool
}

// Job is an operation that was queued.
type Job interface {
	// Done is closed at its end.
	Done() <-chan struct{}
	// Err is how it ended, once Done is closed.
	Err() error
}

// Store reads records.
type Store interface {
	View(fn func(*store.Tx) error) error
}

// Journal records what comes to nothing.
type Journal interface{ Record(mvm.Event) }

// Metrics counts what was put off.
type Metrics interface {
	Deferred(op mvm.OpKind, reason string)
}

// Options are what a loop is made of. All of them are required.
type Options struct {
	Instances Instances
	Queue     Queue
	Store     Store
	Journal   Journal
	Metrics   Metrics
	Log       *slog.Logger
	// Call bounds one question to a guest.
	Call time.Duration
	// Memory measures the host's, where Limits say when instances make room.
	Memory func() (policy.Memory, error)
	Limits policy.MemoryLimits
}

// Loop knows how idle the instances are that hold memory, and puts them to rest. All
// methods may be called concurrently.
type Loop struct {
	opt   Options
	poked chan struct{} // a round is wanted
	slots chan struct{} // one per guest that is asked
	wg    sync.WaitGroup

	mu     sync.Mutex
	tracks map[string]*track
}

// New makes a loop that does nothing before Run.
func New(opt Options) *Loop {
	return &Loop{opt: opt, poked: make(chan struct{}, 1), slots: make(chan struct{}, samplers), tracks: map[string]*track{}}
}

// track follows one instance as long as its VMM lives. Its fields are guarded by
// l.mu.
type track struct {
	vmm   VMM
	since time.Time // when the instance came to its state

	meter    policy.Meter
	guest    policy.Guest
	rss      int64
	err      string    // why it could not be measured
	measured time.Time // when it was last measured to the end
	next     time.Time // when it is measured again
	sampling bool

	decision policy.Decision
	deferred string // the minimum that is on record for having put it off
	acting   bool   // an operation of the policy is under way
	tries    int    // that failed in a row
	backoff  time.Time
	failed   string
	wanted   time.Time // when a try was called off
}

// Poke has a round made soon.
func (l *Loop) Poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// Status is what is known of the instance, nil where it holds no memory or was not
// looked at yet.
func (l *Loop) Status(i mvm.Instance) *mvm.IdleStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tracks[i.ID]
	if t == nil || !i.State.HoldsMemory() || t.decision.Do == "" {
		return nil
	}
	s := &mvm.IdleStatus{Signals: t.meter.Signals(), Measured: t.meter.Measured(),
		Decision: string(t.decision.Do), Reason: t.decision.Reason}
	awake := t.awake(i)
	if awake == "" {
		s.Since = t.meter.IdleSince()
	}
	kept := awake != "" || t.decision.Guard != "" || t.decision.Do == policy.Defer
	if kept && i.State == mvm.StateRunning {
		s.Awake = t.decision.Reason
	}
	return s
}

// awake is the signal by which the instance is in use, or why that is not known. l.mu
// is held.
func (t *track) awake(i mvm.Instance) string {
	switch {
	case t.err != "":
		return "it could not be measured: " + t.err
	case t.meter.Measured().IsZero(), i.State == mvm.StateRunning && t.meter.Measured().Before(i.Changed):
		return "it has not been watched for long enough"
	}
	return t.meter.Awake()
}

// Run puts idle instances to rest until ctx ends, and then waits for what
// it started.
func (l *Loop) Run(ctx context.Context) {
	defer l.wg.Wait()
	for {
		end := wait.For(ctx, l.poked, l.round(ctx))
		if end == wait.Gone {
			end = wait.For(ctx, nil, minGap)
		}
		if end == wait.Canceled {
			return
		}
	}
}

// round looks at everything that holds memory, has measured what is due, decides and
// acts. It returns how long nothing needs to be looked at again.
func (l *Loop) round(ctx context.Context) time.Duration {
	all, err := l.subjects()
	if err != nil {
		l.opt.Log.Error("look at idle instances", "error", err)
		return maxGap
	}
	if len(all) == 0 {
		return time.Minute // a VMM that comes to be ends the wait
	}
	now := time.Now()
	by := map[string]policy.Subject{}
	for _, s := range all {
		by[s.Instance.ID] = s
	}
	for _, d := range policy.Evaluate(all, l.memoryPressure(), now) {
		l.decide(ctx, by[d.ID], d, now)
	}
	return l.measureDue(ctx, all, now)
}

// start runs fn in a goroutine that Run waits for; false when the loop ends.
func (l *Loop) start(ctx context.Context, fn func()) bool {
	if ctx.Err() != nil {
		return false
	}
	l.wg.Go(fn)
	return true
}

// memoryPressure is how much memory the host is short of.
func (l *Loop) memoryPressure() policy.Pressure {
	if l.opt.Limits == (policy.MemoryLimits{}) {
		return policy.Pressure{}
	}
	m, err := l.opt.Memory()
	if err != nil {
		l.opt.Log.Error("measure the host's memory", "error", err)
		return policy.Pressure{}
	}
	return l.opt.Limits.Pressure(m)
}

// subjects are the instances with a VMM, as the store has them, with what was
// measured. It forgets the tracks of others.
func (l *Loop) subjects() (out []policy.Subject, err error) {
	vmms := l.opt.Instances.VMMs()
	err = l.opt.Store.View(func(tx *store.Tx) error {
		out = out[:0]
		pools, tenants := map[mvm.Address]mvm.Pool{}, map[string]mvm.Tenant{}
		for _, id := range slices.Sorted(maps.Keys(vmms)) {
			s, err := subject(tx, id, pools, tenants)
			if mvm.IsKind(err, mvm.KindNotFound) {
				continue // it was destroyed meanwhile
			}
			if err != nil {
				return err
			}
			if s.Instance.State.HoldsMemory() {
				out = append(out, s)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.follow(vmms, out)
	return out, nil
}

func subject(tx *store.Tx, id string, pools map[mvm.Address]mvm.Pool, tenants map[string]mvm.Tenant) (s policy.Subject, err error) {
	if s.Instance, err = tx.Instance(id); err != nil {
		return s, err
	}
	at := mvm.Address{Tenant: s.Instance.Tenant, Pool: s.Instance.Pool}
	pool, ok := pools[at]
	if !ok {
		if pool, err = tx.Pool(at.Tenant, at.Pool); err != nil {
			return s, err
		}
		pools[at] = pool
	}
	tenant, ok := tenants[at.Tenant]
	if !ok {
		if tenant, err = tx.Tenant(at.Tenant); err != nil {
			return s, err
		}
		tenants[at.Tenant] = tenant
	}
	s.Spec, s.TenantPinned, s.MaxWarm = pool.Spec, tenant.Pinned, tenant.Quota.MaxWarm
	return s, nil
}

// follow makes the tracks agree with what lives, and fills in what they know.
func (l *Loop) follow(vmms map[string]VMM, subjects []policy.Subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, t := range l.tracks {
		if vmms[id] != t.vmm {
			delete(l.tracks, id)
		}
	}
	for n := range subjects {
		s := &subjects[n]
		i := s.Instance
		t := l.tracks[i.ID]
		if t == nil {
			t = &track{vmm: vmms[i.ID]}
			l.tracks[i.ID] = t
		}
		if !t.since.Equal(i.Changed) { // another state: what was measured is of the one before
			t.guest = policy.Guest{MuteSince: t.guest.MuteSince}
			t.since, t.next, t.tries, t.backoff = i.Changed, time.Time{}, 0, time.Time{}
		}
		s.Awake, s.IdleSince, s.RSS = t.awake(i), t.meter.IdleSince(), t.rss
		s.Backoff, s.Failed = t.backoff, t.failed
	}
}
