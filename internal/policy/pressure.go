package policy

import (
	"fmt"
	"slices"
	"time"

	"mvm"
)

// relieve puts to sleep what it takes to free the memory that the host is short of: of
// those that are idle, however shortly, the coldest first, those past their minimum
// before others. What sleeps anyway, or is on its way, counts.
func (e *evaluation) relieve() {
	need := e.pressure.Bytes
	if need <= 0 {
		return
	}
	var past, others []*candidate
	for _, c := range e.all {
		switch {
		case c.Do == Sleep || c.Instance.Op != nil && c.Instance.Op.Kind == mvm.OpSleep:
			need -= c.RSS
		case !e.pressable(c.Subject):
		case e.pastMinimum(c.Subject):
			past = append(past, c)
		default:
			others = append(others, c)
		}
	}
	slices.SortFunc(past, colder)
	slices.SortFunc(others, colder)
	for n, c := range slices.Concat(past, others) {
		if need <= 0 {
			return
		}
		if c.Do == Warm || e.takeSpare(c) { // one that was to be warm has its place already
			e.press(c, n >= len(past))
			need -= c.RSS
		}
	}
}

// pressable: nothing but its time keeps the instance awake.
func (e *evaluation) pressable(s Subject) bool {
	name, _ := guard(s, e.now)
	return name == "" && s.Awake == "" && s.Spec.Policy.SleepAfterSeconds > 0 && !s.Backoff.After(e.now)
}

func (e *evaluation) pastMinimum(s Subject) bool {
	_, until := minimum(s)
	return !until.After(e.now)
}

func (e *evaluation) press(c *candidate, early bool) {
	c.Do, c.Want, c.Guard, c.Next = Sleep, "", "", time.Time{}
	c.Reason = fmt.Sprintf("%s; idle for %s", e.pressure.Why, span(e.now.Sub(c.IdleSince)))
	if early {
		c.Reason += ", and those past their minimum are not enough"
	}
}

// order holds an instance back as long as one of a role that goes before it is on its
// way to rest in the same tenant: workers rest before their gateways. Memory that is
// needed does not wait for that.
func (e *evaluation) order() {
	first := map[string]int{}
	for _, c := range e.all {
		if c.acts() || resting(c.Instance) && c.Instance.Op.By.Kind == mvm.AskerPolicy {
			first[c.Instance.Tenant] = max(first[c.Instance.Tenant], c.Instance.Role.Priority())
		}
	}
	for _, c := range e.all {
		if c.acts() && c.Instance.Role.Priority() < first[c.Instance.Tenant] {
			c.stay("role_order", "idle, and those that it serves rest first")
			c.Next = time.Time{}
			if c.Instance.State == mvm.StateRunning {
				e.spare[c.pool()]++
			}
		}
	}
}
