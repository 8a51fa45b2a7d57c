package plan

import (
	"fmt"
	"slices"
	"time"

	"mvm"
)

// Alone is an instance that the plan leaves as it is because a person changed it.
type Alone struct {
	Target mvm.Address
	Until  time.Time
	// Step is what is put off: a step on the instance, or one of its pool that the
	// instance keeps from being taken.
	Step Step
}

// String says so to people.
func (a Alone) String() string {
	s := a.Step.Display()
	return fmt.Sprintf("%s was changed by hand and is left alone until %s; this step waits: %s %s (%s)",
		a.Target, a.Until.UTC().Format(time.RFC3339), s.Action, s.Target, s.Reason)
}

// TakenOver is what is there, as if no person had changed any of it.
func (o Observed) TakenOver() Observed {
	o.Instances = slices.Clone(o.Instances)
	for n := range o.Instances {
		o.Instances[n].ManualOverrideUntil = time.Time{}
	}
	return o
}

// byHand are the pool's instances that a person changed, until their overrides end.
func (o Observed) byHand(pool string) (out []mvm.Instance) {
	for _, i := range o.Instances {
		if i.Pool == pool && i.State != mvm.StateDestroyed && i.ManualOverrideUntil.After(o.Now) {
			out = append(out, i)
		}
	}
	return out
}

// leftAlone finds the instances that keep a pool from what is asked for. A second plan,
// made as if no person had changed any, says what that is: its steps that p does not have.
// A step on one of them is put off by it; any other step of its pool by all of them.
func leftAlone(p Plan, o Observed, again func(Observed) (Plan, error)) []Alone {
	if !slices.ContainsFunc(o.Pools, func(pool mvm.Pool) bool { return len(o.byHand(pool.Spec.ID)) > 0 }) {
		return nil
	}
	free, err := again(o.TakenOver())
	if err != nil {
		return nil
	}
	var out []Alone
	more := beside(free.Steps, p.Steps)
	for _, pool := range o.Pools {
		steps := slices.DeleteFunc(slices.Clone(more), func(s Step) bool { return s.Target.Pool != pool.Spec.ID })
		out = append(out, putOff(steps, o.byHand(pool.Spec.ID))...)
	}
	return out
}

// putOff names which of a pool's instances that a person changed put off which step.
func putOff(steps []Step, byHand []mvm.Instance) (out []Alone) {
	if len(steps) == 0 {
		return nil
	}
	for _, i := range byHand {
		n := slices.IndexFunc(steps, func(s Step) bool { return s.Target.Instance == i.ID })
		if n >= 0 {
			out = append(out, Alone{Target: i.Address(), Until: i.ManualOverrideUntil, Step: steps[n]})
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, i := range byHand {
		out = append(out, Alone{Target: i.Address(), Until: i.ManualOverrideUntil, Step: steps[0]})
	}
	return out
}

// beside returns the steps on instances, and destructions of pools, that others lack.
func beside(steps, others []Step) (out []Step) {
	type what struct {
		kind   Kind
		op     mvm.OpKind
		target mvm.Address
		to     mvm.State
	}
	of := func(s Step) what { return what{s.Kind, s.Op, s.Target, s.To} }
	have := map[what]int{}
	for _, s := range others {
		have[of(s)]++
	}
	for _, s := range steps {
		switch s.Kind {
		case Operate, Restart, CreateInstance, DestroyPool:
			if have[of(s)]--; have[of(s)] < 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

// Held names the pool's instances that a person changed, which keep the step from being
// taken.
func Held(p mvm.Pool, o Observed, s Step) []Alone {
	return putOff([]Step{s}, o.byHand(p.Spec.ID))
}
