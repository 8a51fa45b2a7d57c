// Package policy decides which instances are made warm or put to sleep because nobody
// uses them, or because the host runs out of memory. It is pure: measures, the pools'
// settings and a clock go in, decisions with their reasons come out, and the agent acts.
//
// Meter makes of samples how long an instance is idle. Evaluate looks at all instances
// that hold memory and decides on each.
package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"mvm"
	"mvm/internal/quota"
)

// Verdict is what is to become of an instance.
type Verdict string

// The verdicts. Defer: its time has come, and a minimum time blocks it.
const (
	Stay  Verdict = "stay"
	Defer Verdict = "defer"
	Warm  Verdict = "warm"
	Sleep Verdict = "sleep"
)

// Subject is an instance that holds memory, with all that is decided by.
type Subject struct {
	Instance     mvm.Instance
	Spec         mvm.PoolSpec
	TenantPinned bool
	MaxWarm      int // of its tenant's quota

	Awake     string    // the signal by which it is in use; "": none
	IdleSince time.Time // of one that is not in use
	RSS       int64     // what a sleep frees, in bytes

	// Backoff is until when it is left alone after Failed, a try that went wrong.
	Backoff time.Time
	Failed  string
}

// Decision is the verdict on one instance.
type Decision struct {
	ID     string
	Do     Verdict
	Reason string
	// Want is what a deferred one was to become.
	Want Verdict
	// Guard names the rule that made it stay or defer: "min_running", "pinned", …; ""
	// where a signal did, or where it is idle and its time has not come.
	Guard string
	// Next is when the time may come, by the clock alone; zero: not by the clock.
	Next time.Time
}

// acts reports whether the decision changes something.
func (d Decision) acts() bool { return d.Do == Warm || d.Do == Sleep }

// Evaluate decides on every subject. The decisions that change something come first,
// in the order in which they are to be taken: roles in reverse, and the coldest first.
// The order of the subjects does not matter.
func Evaluate(subjects []Subject, p Pressure, now time.Time) []Decision {
	e := &evaluation{now: now, pressure: p, warm: map[string]int{}, spare: map[mvm.Address]int{}}
	for _, s := range subjects {
		e.all = append(e.all, &candidate{Subject: s})
	}
	slices.SortFunc(e.all, coldest)
	for _, c := range e.all {
		e.count(c)
	}
	for _, c := range e.all {
		c.Decision = e.judge(c.Subject)
		e.limit(c)
	}
	e.order()
	e.relieve()
	out := make([]Decision, len(e.all))
	slices.SortStableFunc(e.all, func(a, b *candidate) int {
		return cmp.Compare(rank(a.Decision), rank(b.Decision))
	})
	for i, c := range e.all {
		out[i] = c.Decision
	}
	return out
}

func rank(d Decision) int {
	if d.acts() {
		return 0
	}
	return 1
}

type candidate struct {
	Subject
	Decision
}

// coldest orders by role in reverse, and then by how long the instance is idle.
func coldest(a, b *candidate) int {
	return cmp.Or(cmp.Compare(b.Instance.Role.Priority(), a.Instance.Role.Priority()), colder(a, b))
}

func colder(a, b *candidate) int {
	return cmp.Or(a.IdleSince.Compare(b.IdleSince), cmp.Compare(a.Instance.ID, b.Instance.ID))
}

// evaluation is one run of Evaluate.
type evaluation struct {
	now      time.Time
	pressure Pressure
	all      []*candidate // roles in reverse, the coldest first
	warm     map[string]int
	spare    map[mvm.Address]int // of gateway pools: how many run beyond those that must
}

// pool is the address of the candidate's pool.
func (c *candidate) pool() mvm.Address {
	return mvm.Address{Tenant: c.Instance.Tenant, Pool: c.Instance.Pool}
}

// resting reports whether an operation takes it out of running.
func resting(i mvm.Instance) bool {
	return i.Op != nil && slices.Contains([]mvm.OpKind{mvm.OpWarm, mvm.OpSleep, mvm.OpStop, mvm.OpRestart, mvm.OpDestroy}, i.Op.Kind)
}

func (e *evaluation) count(c *candidate) {
	i := c.Instance
	if quota.Of(i).Warm {
		e.warm[i.Tenant]++
	}
	if c.Spec.Role != mvm.RoleGateway {
		return
	}
	if _, ok := e.spare[c.pool()]; !ok {
		e.spare[c.pool()] = -c.Spec.Desired.Running
	}
	if i.State == mvm.StateRunning && !resting(i) {
		e.spare[c.pool()]++
	}
}

// judge decides on one instance by itself.
func (e *evaluation) judge(s Subject) Decision {
	d := Decision{ID: s.Instance.ID, Do: Stay}
	if d.Guard, d.Reason = guard(s, e.now); d.Guard != "" {
		if d.Guard == "manual_override" {
			d.Next = s.Instance.ManualOverrideUntil
		}
		if d.Guard == "next_wake" {
			d.Next = s.Instance.NextWake.Add(mvm.AfterTimer)
		}
		return d
	}
	if s.Awake != "" {
		d.Reason = s.Awake
		return d
	}
	idle := e.now.Sub(s.IdleSince)
	to, after, next := due(s, idle)
	switch {
	case to == "" && next == 0:
		d.Guard, d.Reason = "never", fmt.Sprintf("idle for %s, and its pool lets it be", span(idle))
		return d
	case to == "":
		d.Reason = fmt.Sprintf("idle for %s, of %s", span(idle), span(next))
		d.Next = s.IdleSince.Add(next)
		return d
	}
	if name, until := minimum(s); until.After(e.now) {
		d.Do, d.Want, d.Guard, d.Next = Defer, to, name, until
		d.Reason = fmt.Sprintf("idle for %s, but %s keeps it %s for %s more", span(idle), name, s.Instance.State, span(until.Sub(e.now)))
		return d
	}
	if s.Backoff.After(e.now) {
		d.Guard, d.Next = "backoff", s.Backoff
		d.Reason = fmt.Sprintf("the last try failed, the next is in %s: %s", span(s.Backoff.Sub(e.now)), s.Failed)
		return d
	}
	d.Do, d.Reason = to, fmt.Sprintf("idle for %s, more than %s", span(idle), span(after))
	return d
}

// guard returns the rule that keeps the policy away from the instance, idle or not.
func guard(s Subject, now time.Time) (name, reason string) {
	i := s.Instance
	switch {
	case i.State != mvm.StateRunning && i.State != mvm.StateWarm:
		return "state", fmt.Sprintf("it is %s", i.State)
	case i.Op != nil:
		return "operation", fmt.Sprintf("an operation is under way: %s", i.Op.Kind)
	case s.TenantPinned:
		return "tenant_pinned", "its tenant is pinned"
	case s.Spec.Critical:
		return "critical", "its pool is critical"
	case s.Spec.Pinned:
		return "pinned", "its pool is pinned"
	case i.ManualOverrideUntil.After(now):
		return "manual_override", fmt.Sprintf("somebody changed it by hand: it is left alone for %s more", span(i.ManualOverrideUntil.Sub(now)))
	case !i.Ready:
		return "not_ready", "its services have not become ready yet"
	case mvm.AwaitsTimer(i.NextWake, now):
		return "next_wake", timerText(i.NextWake, now)
	}
	return "", ""
}

// due returns what the instance's idleness calls for, after how long; where nothing yet,
// how long it must be idle for the next thing, 0 for never.
func due(s Subject, idle time.Duration) (to Verdict, after, next time.Duration) {
	warm, sleep := seconds(s.Spec.Policy.WarmAfterSeconds), seconds(s.Spec.Policy.SleepAfterSeconds)
	running := s.Instance.State == mvm.StateRunning
	switch {
	case sleep > 0 && idle >= sleep:
		return Sleep, sleep, 0
	case running && warm > 0 && idle >= warm:
		return Warm, warm, 0
	case running && warm > 0 && (sleep == 0 || warm < sleep):
		return "", 0, warm
	}
	return "", 0, sleep
}

// minimum is the time that guards the instance's state, and when it has passed.
func minimum(s Subject) (name string, until time.Time) {
	if s.Instance.State == mvm.StateWarm {
		return "min_warm_seconds", s.Instance.Changed.Add(seconds(s.Spec.Policy.MinWarmSeconds))
	}
	return "min_running_seconds", s.Instance.Changed.Add(seconds(s.Spec.Policy.MinRunningSeconds))
}

// limit holds the decision to what tenant and pool allow, the coldest taking first.
func (e *evaluation) limit(c *candidate) {
	if !c.acts() {
		return
	}
	if c.Do == Warm && e.full(c) {
		c.stay("max_warm", fmt.Sprintf("%s, but the tenant's quota max_warm is %d", c.Reason, c.MaxWarm))
		c.Next = time.Time{}
		if sleep := c.Spec.Policy.SleepAfterSeconds; sleep > 0 {
			c.Next = c.IdleSince.Add(seconds(sleep))
		}
		return
	}
	if !e.takeSpare(c) {
		return
	}
	if c.Do == Warm {
		e.warm[c.Instance.Tenant]++
	}
}

// full reports that the tenant may not have one more warm instance.
func (e *evaluation) full(c *candidate) bool {
	return quota.Warm(mvm.Quota{MaxWarm: c.MaxWarm}, mvm.Usage{Warm: e.warm[c.Instance.Tenant]}) != nil
}

// takeSpare has a gateway leave the running ones of its pool, where one may; else it
// stays.
func (e *evaluation) takeSpare(c *candidate) bool {
	if c.Spec.Role != mvm.RoleGateway || c.Instance.State != mvm.StateRunning {
		return true
	}
	if e.spare[c.pool()] <= 0 {
		c.stay("gateway_minimum", fmt.Sprintf("its pool keeps %s running", plural(c.Spec.Desired.Running, "gateway")))
		return false
	}
	e.spare[c.pool()]--
	return true
}

func (c *candidate) stay(guard, reason string) { c.Do, c.Guard, c.Reason = Stay, guard, reason }
