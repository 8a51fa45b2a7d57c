package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/policy"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Times and bounds of the loop that puts idle instances to rest.
const (
	idleGap     = 100 * time.Millisecond // between two rounds, at least
	idleRound   = 5 * time.Second        // between two rounds, at most, as long as there are VMMs
	idleFresh   = 2 * time.Second        // how old a measure may be that something is decided by
	idleSamples = 8                      // guests asked at once
	idleOps     = 4                      // operations of the policy at once
	idleFirst   = 5 * time.Second        // from the first measure of a run to the second, at most
	idleAnswer  = 5 * time.Second        // for a guest to say how busy it is
	idleRetry   = 30 * time.Second       // after a try that failed, doubled for each more, up to
	idleRetries = 10 * time.Minute
)

// idler is what is known of how idle the instances that hold memory are.
type idler struct {
	poked chan struct{} // a round is wanted
	slots chan struct{} // one per guest that is asked

	mu     sync.Mutex
	tracks map[string]*track
}

func newIdler() idler {
	return idler{poked: make(chan struct{}, 1), slots: make(chan struct{}, idleSamples), tracks: map[string]*track{}}
}

// track follows one instance as long as its VMM lives. Its fields are guarded by
// idler.mu.
type track struct {
	live  *live
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

// poke has a round made soon.
func (d *idler) poke() {
	select {
	case d.poked <- struct{}{}:
	default:
	}
}

// status is what is known of the instance, nil where it holds no memory or was not
// looked at yet.
func (d *idler) status(i mvm.Instance) *mvm.IdleStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.tracks[i.ID]
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

// awake is the signal by which the instance is in use, or why that is not known. idler.mu
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

// keepIdle puts idle instances to rest for as long as the agent runs.
func (a *Agent) keepIdle() {
	for {
		end := wait.For(a.ctx, a.idle.poked, a.idleOnce())
		if end == wait.Gone {
			end = wait.For(a.ctx, nil, idleGap)
		}
		if end == wait.Canceled {
			return
		}
	}
}

// idleOnce looks at everything that holds memory, has measured what is due, decides and
// acts. It returns how long nothing needs to be looked at again.
func (a *Agent) idleOnce() time.Duration {
	subjects, err := a.idleSubjects()
	if err != nil {
		a.log.Error("look at idle instances", "error", err)
		return idleRound
	}
	if len(subjects) == 0 {
		return time.Minute // a VMM that comes to be ends the wait
	}
	now := time.Now()
	by := map[string]policy.Subject{}
	for _, s := range subjects {
		by[s.Instance.ID] = s
	}
	for _, d := range policy.Evaluate(subjects, a.memoryPressure(), now) {
		a.decide(by[d.ID], d, now)
	}
	return a.measureDue(subjects, now)
}

// memoryPressure is how much memory the host is short of.
func (a *Agent) memoryPressure() policy.Pressure {
	if a.opt.MemoryLimits == (policy.MemoryLimits{}) {
		return policy.Pressure{}
	}
	m, err := a.opt.HostMemory()
	if err != nil {
		a.log.Error("measure the host's memory", "error", err)
		return policy.Pressure{}
	}
	return a.opt.MemoryLimits.Pressure(m)
}

// idleSubjects are the instances with a VMM, as the store has them, with what was
// measured. It forgets the tracks of others.
func (a *Agent) idleSubjects() (out []policy.Subject, err error) {
	lives := a.lives()
	err = a.store.View(func(tx *store.Tx) error {
		out = out[:0]
		pools, tenants := map[mvm.Address]mvm.Pool{}, map[string]mvm.Tenant{}
		for _, id := range slices.Sorted(maps.Keys(lives)) {
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
	a.idle.follow(lives, out)
	return out, nil
}

func (a *Agent) lives() map[string]*live {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]*live, len(a.live))
	for id, l := range a.live {
		out[id] = l
	}
	return out
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
func (d *idler) follow(lives map[string]*live, subjects []policy.Subject) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, t := range d.tracks {
		if lives[id] != t.live {
			delete(d.tracks, id)
		}
	}
	for n := range subjects {
		s := &subjects[n]
		i := s.Instance
		t := d.tracks[i.ID]
		if t == nil {
			t = &track{live: lives[i.ID]}
			d.tracks[i.ID] = t
		}
		if !t.since.Equal(i.Changed) { // another state: what was measured is of the one before
			t.guest = policy.Guest{MuteSince: t.guest.MuteSince}
			t.since, t.next, t.tries, t.backoff = i.Changed, time.Time{}, 0, time.Time{}
		}
		s.Awake, s.IdleSince, s.RSS = t.awake(i), t.meter.IdleSince(), t.rss
		s.Backoff, s.Failed = t.backoff, t.failed
	}
}
