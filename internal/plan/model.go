package plan

import (
	"cmp"
	"slices"
	"time"

	"mvm"
	"mvm/internal/quota"
)

// model is the tenant's instances as they are after the steps planned so far.
type model struct {
	quota     mvm.Quota
	instances []*instance
}

// instance is one of them.
type instance struct {
	id      string // empty: made by a step of this plan
	pool    string
	state   mvm.State
	res     mvm.Resources
	created int64
	// crashed: it is a user's, and its VMM ended though nobody wanted that.
	crashed bool
	spare   bool // without a key, an override or an operation: may be changed
	held    bool // counted, and not to be changed: a user's, or busy
	parked  bool // put to rest because it was idle: it may stand for one in memory
	// stands: it may stand for any that is missing. A request woke it and the policy puts
	// it to rest; or it is on its way by an operation, or was changed by hand, and may be
	// changed later: nothing is made in its place meanwhile.
	stands bool
	// holds is what it holds of the quota beside what state does, for as long as it is on
	// its way.
	holds quota.Claim
	since time.Time // it is in state; zero once a step has changed it
}

func newModel(o Observed, quota mvm.Quota) *model {
	m := &model{quota: quota}
	for _, i := range o.Instances {
		if i.State == mvm.StateDestroyed || i.Op != nil && i.Op.Kind == mvm.OpDestroy {
			continue
		}
		m.instances = append(m.instances, newInstance(i, o))
	}
	slices.SortStableFunc(m.instances, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.id, b.id))
	})
	return m
}

func newInstance(i mvm.Instance, o Observed) *instance {
	way, underWay := o.UnderWay[i.ID]
	busy := i.Op != nil || i.ManualOverrideUntil.After(o.Now) || underWay
	m := &instance{id: i.ID, pool: i.Pool, state: heading(i), res: i.Res, created: i.Created.UnixNano(), since: i.Changed, parked: parked(i)}
	if underWay {
		m.state = way.To
	}
	m.stands = i.Key == "" && (busy || !m.parked && woken(i))
	m.held = i.Key != "" || m.stands
	m.spare = !m.held
	m.crashed = !busy && crashed(i)
	if i.Op != nil || underWay {
		m.holds = quota.Of(i)
	}
	if way.Runs {
		m.holds = m.holds.With(quota.In(mvm.StateRunning))
	}
	return m
}

// crashed reports whether a user's instance is stopped and nobody wanted that to last: its
// VMM ended, or a restart of it failed. One that has served nobody yet is not its user's.
func crashed(i mvm.Instance) bool {
	return i.Key != "" && !i.Unproven && i.State == mvm.StateStopped &&
		i.Last != nil && i.Last.To == mvm.StateStopped && i.Last.Unwanted
}

// woken reports whether the instance is in memory because somebody uses it: a request, a
// connection, or another waker, whatever its kind, asked for it.
func woken(i mvm.Instance) bool {
	if !i.State.HoldsMemory() || i.Last == nil {
		return false
	}
	switch i.Last.Op {
	case mvm.OpStart, mvm.OpResume, mvm.OpWake:
		return i.Last.By.Kind.OnDemand()
	}
	return false
}

// heading is the state that the instance has once its operation is done.
func heading(i mvm.Instance) mvm.State {
	if i.Op == nil {
		return i.State
	}
	return i.Op.Kind.Leads(i.State)
}

// removePool forgets the instances of a pool that is destroyed.
func (m *model) removePool(pool string) {
	m.instances = slices.DeleteFunc(m.instances, func(i *instance) bool { return i.pool == pool })
}

// spares returns the pool's instances in the state that may be changed, oldest first.
func (m *model) spares(spec mvm.PoolSpec, states ...mvm.State) []*instance {
	stands := m.tally(spec).stands
	var out []*instance
	for _, i := range m.instances {
		if i.pool == spec.ID && i.spare && i.id != "" && slices.Contains(states, i.state) && !stands[i] {
			out = append(out, i)
		}
	}
	return out
}

// field is the count of the state; other states have one that nobody reads.
func field(c *mvm.Counts, s mvm.State) *int {
	switch s {
	case mvm.StateRunning:
		return &c.Running
	case mvm.StateWarm:
		return &c.Warm
	case mvm.StateSleeping:
		return &c.Sleeping
	}
	return new(int)
}

func (m *model) usage() (u mvm.Usage) {
	for _, i := range m.instances {
		quota.Add(&u, i.res, quota.In(i.state).With(i.holds))
	}
	return u
}

// denied says which limit keeps one more instance from running, "" when none does.
// holds: the instance holds its memory already.
func (m *model) denied(res mvm.Resources, holds bool) string {
	if holds {
		return limit(quota.Resume(m.quota, m.usage()))
	}
	return limit(quota.Run(m.quota, m.usage(), res))
}

func (m *model) deniedWarm() string { return limit(quota.Warm(m.quota, m.usage())) }

// deniedNew says which limit keeps one more instance of the pool from being made and run.
func (m *model) deniedNew(pool string, res mvm.Resources) string {
	n := 0
	for _, i := range m.instances {
		if i.pool == pool {
			n++
		}
	}
	if l := quota.New(m.quota, m.usage(), n, res); l != nil {
		return limit(l)
	}
	return m.denied(res, false)
}

// limit names the limit, "" where there is none.
func limit(l *quota.Limit) string {
	if l == nil {
		return ""
	}
	return l.String()
}
