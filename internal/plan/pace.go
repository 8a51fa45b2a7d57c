package plan

import (
	"slices"

	"mvm"
)

// Object is an instance, or a pool's image or making of instances, that somebody works on
// for reconcile, or failed with lately.
type Object struct {
	Key  string
	At   mvm.Address
	Task *Task // under way; nil: none
	Open bool  // of the task: the instance runs, and only its services are waited for
	// Waits: it failed, and the time of the next try has not come.
	Waits bool
	// Troubled: it failed lately, and is not known to be well again.
	Troubled bool
}

// Turn says whether a task's turn has come.
type Turn string

// The turns.
const (
	Begin Turn = "begin"
	Wait  Turn = "wait"  // for others, or for the next try: a later look begins it
	Later Turn = "later" // its minimum time has not passed
	Stop  Turn = "stop"  // neither this nor any after it: something is given up first
)

// Pace decides which tasks of a tenant may begin now. A roll-out goes on in steps:
//
//   - The image is built before an instance of the pool comes up, unless the build fails.
//   - Gateways come up before what is behind them, and go down after it.
//   - What gives something up ends before anything comes up: the next look sees what is free.
//   - One instance of a pool is restarted at a time, none while another of the pool fails.
//     One that serves is restarted only while all others of its pool are ready.
//   - A tenant has a share of the tasks. To wait for services takes nothing of it.
//
// It is pure: the caller asks for each task in order, and says what became of it.
type Pace struct {
	o      Observed
	gaveUp func(mvm.Instance) bool
	free   int // tasks that the tenant may have beside those under way

	waits map[string]bool // by key: objects that have a task or wait for the next try
	// Of what is under way, or began: pools whose image is built, gateways that come up,
	// others that go down, pools in which an instance is restarted or fails.
	building  map[string]bool
	gateways  int
	lowering  int
	restarted map[string]bool
	lowered   bool // something that began here gives something up
}

// NewPace looks at what is there and under way. share is how many tasks the tenant may have
// at a time; gaveUp reports that a service of a running instance does not come up.
func NewPace(o Observed, p Plan, objects []Object, share int, gaveUp func(mvm.Instance) bool) *Pace {
	c := &Pace{o: o, gaveUp: gaveUp, free: share, waits: map[string]bool{}, building: map[string]bool{}, restarted: map[string]bool{}}
	for _, i := range o.Instances {
		if o.UnderWay[i.ID].Runs && i.Role == mvm.RoleGateway && i.Key == "" {
			c.gateways++
		}
	}
	failing := map[string]bool{}
	for _, obj := range objects {
		if obj.Task != nil {
			c.count(*obj.Task, obj.Open)
		}
		c.waits[obj.Key] = obj.Task != nil || obj.Waits
		failing[obj.Key] = obj.Waits
		if obj.Troubled && obj.At.Instance != "" {
			c.restarted[obj.At.Pool] = true // no more of what may be to blame
		}
	}
	for _, s := range p.Steps { // the image first, unless it fails and there is another
		if s.Kind == BuildPool && !failing[s.Target.String()] {
			c.building[s.Target.Pool] = true
		}
	}
	return c
}

// count takes account of a task that is under way.
func (c *Pace) count(t Task, open bool) {
	switch {
	case t.Kind == BuildPool:
		c.building[t.At.Pool] = true
		if t.Role == mvm.RoleGateway {
			c.gateways++
		}
		return
	case !t.Rises() && t.Role != mvm.RoleGateway:
		c.lowering++
	}
	if !open {
		c.free--
	}
	if t.Kind == Restart {
		c.restarted[t.At.Pool] = true
	}
}

// Turn says whether the task may begin now.
func (c *Pace) Turn(t Task) Turn {
	switch {
	case t.AwaitsBuild, t.AfterOp: // the look after that sees whether it has to be
		return Wait
	case c.o.Now.Before(t.After):
		return Later
	case c.Waits(t.Key) || t.Kind != BuildPool && c.held(t):
		return Wait
	case t.Rises() && c.lowered:
		return Stop
	}
	return Begin
}

// Waits reports that the object has a task, or failed and has to wait.
func (c *Pace) Waits(key string) bool { return c.waits[key] }

// Began says that the task is under way.
func (c *Pace) Began(t Task) {
	c.count(t, false)
	if t.Rises() && t.Role == mvm.RoleGateway {
		c.gateways++
	}
	c.lowered = c.lowered || !t.Rises() && t.Kind != BuildPool
	if t.Kind != CreateInstance { // whose object is the instance that was made
		c.waits[t.Key] = true
	}
}

// Failed says that the task could not begin: its object waits for the next try.
func (c *Pace) Failed(t Task) { c.waits[t.Key] = true }

// held reports whether the task has to wait for others.
func (c *Pace) held(t Task) bool {
	gateway := t.Role == mvm.RoleGateway
	switch {
	case c.free <= 0:
		return true
	case t.Rises() && c.building[t.At.Pool]:
		return true
	case t.Rises() && !gateway && c.gateways > 0: // they answer before anything is behind them
		return true
	case !t.Rises() && gateway && c.lowering > 0:
		return true
	case t.Kind == Restart:
		return c.restarted[t.At.Pool] || c.serves(t.At) && c.unready(t.At)
	}
	return false
}

// serves reports that the instance runs and its services are ready: what does not serve
// may be mended at once.
func (c *Pace) serves(at mvm.Address) bool {
	return slices.ContainsFunc(c.o.Instances, func(i mvm.Instance) bool {
		return i.ID == at.Instance && i.State == mvm.StateRunning && i.Ready && !c.gaveUp(i)
	})
}

// unready reports that another instance of the pool runs and is not ready: a restart
// of one more would leave fewer that answer.
func (c *Pace) unready(at mvm.Address) bool {
	return slices.ContainsFunc(c.o.Instances, func(i mvm.Instance) bool {
		return i.Pool == at.Pool && i.ID != at.Instance && i.State == mvm.StateRunning && !i.Ready
	})
}
