package plan

import (
	"time"

	"mvm"
)

// Task is the steps of a plan that are about one object: an instance, or a pool's image.
type Task struct {
	Key   string // of its object
	At    mvm.Address
	Role  mvm.Role
	Kind  Kind
	Ops   []mvm.OpKind // on the instance, in order
	To    mvm.State
	Shown []mvm.PlanStep
	After time.Time // not before
	Limit string    // the minimum time that ends then
	// AwaitsBuild: it is for nothing before the pool's image is built.
	AwaitsBuild bool
	// AfterOp: an operation that is under way comes first.
	AfterOp bool
	// Parked: when it is warm again, it rests as before.
	Parked bool
}

// Rises reports that the instance runs at some time of the task.
func (t Task) Rises() bool {
	for _, op := range t.Ops {
		if op.Rises() {
			return true
		}
	}
	return t.Kind == CreateInstance
}

// Tasks groups the plan's steps by the object that they are about, in the plan's order.
func (p Plan) Tasks(o Observed) []Task {
	var out []Task
	by, roles := map[string]int{}, o.roles()
	for _, s := range p.Steps {
		t := Task{At: s.Target, Role: roles[s.Target.Pool], Kind: s.Kind, After: s.After, Limit: s.Limit, AwaitsBuild: s.AwaitsBuild, AfterOp: s.AfterOp, Parked: s.Parked,
			Shown: []mvm.PlanStep{s.Display()}}
		switch s.Kind {
		case Operate:
			t.Key, t.Ops, t.To = s.Target.Instance, []mvm.OpKind{s.Op}, s.Op.Leads("")
		case Restart:
			t.Key, t.Ops, t.To = s.Target.Instance, restartOps(s.To), s.To
		case CreateInstance:
			t.Key, t.Ops, t.To = s.Target.String()+"#new", createOps(s.To), s.To
			out = append(out, t)
			continue
		case BuildPool:
			t.Key = s.Target.String()
		default:
			continue
		}
		n, known := by[t.Key]
		if !known {
			by[t.Key] = len(out)
			out = append(out, t)
		} else if have := &out[n]; have.Kind == Operate && t.Kind == Operate && t.After.IsZero() {
			have.Ops, have.To, have.Shown = append(have.Ops, t.Ops...), t.To, append(have.Shown, t.Shown...)
		}
	}
	return out
}

func (o Observed) roles() map[string]mvm.Role {
	roles := map[string]mvm.Role{}
	for _, p := range o.Pools {
		roles[p.Spec.ID] = p.Spec.Role
	}
	return roles
}

func restartOps(to mvm.State) []mvm.OpKind {
	ops := []mvm.OpKind{mvm.OpStop, mvm.OpStart}
	if to == mvm.StateWarm {
		ops = append(ops, mvm.OpWarm)
	}
	return ops
}

func createOps(to mvm.State) []mvm.OpKind {
	ops := []mvm.OpKind{mvm.OpCreate, mvm.OpStart}
	switch to {
	case mvm.StateWarm:
		ops = append(ops, mvm.OpWarm)
	case mvm.StateSleeping:
		ops = append(ops, mvm.OpSleep)
	}
	return ops
}

// Unready are tasks that wait for the services of instances that run and were not seen
// ready, where nobody else does: an agent that was ended may have done so.
func (o Observed) Unready() (out []Task) {
	for _, i := range o.Instances {
		_, underWay := o.UnderWay[i.ID]
		if i.State != mvm.StateRunning || i.Ready || i.Problem != "" || i.Op != nil || underWay || i.ManualOverrideUntil.After(o.Now) {
			continue
		}
		out = append(out, Task{Key: i.ID, At: i.Address(), Role: i.Role, Kind: Operate, Ops: []mvm.OpKind{mvm.OpStart}, To: mvm.StateRunning,
			Shown: []mvm.PlanStep{{Action: "start", Target: i.Address().String(), Reason: "its services are not ready yet"}}})
	}
	return out
}
