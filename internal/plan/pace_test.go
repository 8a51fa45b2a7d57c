package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/plan"
)

// paced is a tenant with a pool of gateways "g", and pools of workers "w" and "v".
type paced struct {
	o       plan.Observed
	objects []plan.Object
	share   int
	gaveUp  string // the instance whose service does not come up
}

func at(target string) mvm.Address {
	pool, id, _ := strings.Cut(target, "/")
	return mvm.Address{Tenant: "acme", Pool: pool, Instance: id}
}

func (c *paced) role(pool string) mvm.Role {
	if pool == "g" {
		return mvm.RoleGateway
	}
	return mvm.RoleWorker
}

// there adds a running, ready instance, which change may change.
func (c *paced) there(target string, change func(*mvm.Instance)) {
	a := at(target)
	i := mvm.Instance{ID: a.Instance, Tenant: a.Tenant, Pool: a.Pool, Role: c.role(a.Pool), State: mvm.StateRunning, Ready: true}
	if change != nil {
		change(&i)
	}
	c.o.Instances = append(c.o.Instances, i)
}

// runs adds a task that is under way: of one step.
func (c *paced) runs(s plan.Step, open bool) {
	t := plan.Plan{Steps: []plan.Step{s}}.Tasks(c.o)[0]
	c.objects = append(c.objects, plan.Object{Key: t.Key, At: t.At, Task: &t, Open: open})
}

func operate(op mvm.OpKind, target string) plan.Step {
	return plan.Step{Kind: plan.Operate, Op: op, Target: at(target)}
}

func restart(target string) plan.Step {
	return plan.Step{Kind: plan.Restart, Target: at(target), To: mvm.StateRunning}
}

func create(pool string) plan.Step {
	return plan.Step{Kind: plan.CreateInstance, Target: at(pool), To: mvm.StateRunning}
}

func build(pool string) plan.Step { return plan.Step{Kind: plan.BuildPool, Target: at(pool)} }

// TestPace: which tasks of a plan begin, in which order, and which wait. want has a word for
// each task: "begin", "wait", "later", and "stop" where the rest is not looked at.
func TestPace(t *testing.T) {
	failed := func(target string, waits bool) func(*paced) {
		return func(c *paced) {
			a := at(target)
			key := a.Instance
			if key == "" {
				key = a.String()
			}
			c.objects = append(c.objects, plan.Object{Key: key, At: a, Waits: waits, Troubled: true})
		}
	}
	notReady := func(i *mvm.Instance) { i.Ready = false }
	for _, c := range []struct {
		name  string
		given func(*paced)
		steps []plan.Step
		want  string
	}{
		{"nothing keeps them", nil, []plan.Step{operate(mvm.OpWake, "w/1"), operate(mvm.OpStart, "w/2"), create("w")}, "begin begin begin"},
		{"two are made in a pool", nil, []plan.Step{create("w"), create("w")}, "begin begin"},
		{"the making of one fails: so would the next", failed("w#new", true), []plan.Step{create("w"), create("v")}, "wait begin"},
		{"the share is used up", func(c *paced) { c.share = 2 }, []plan.Step{operate(mvm.OpWake, "w/1"), operate(mvm.OpWake, "w/2"), operate(mvm.OpWake, "w/3")}, "begin begin wait"},
		{"the share is used up by what is under way", func(c *paced) { c.share = 1; c.runs(operate(mvm.OpWake, "w/9"), false) }, []plan.Step{operate(mvm.OpWake, "w/1")}, "wait"},
		{"to wait for services takes nothing", func(c *paced) { c.share = 1; c.runs(operate(mvm.OpWake, "w/9"), true) }, []plan.Step{operate(mvm.OpWake, "w/1")}, "begin"},
		{"a build takes nothing", func(c *paced) { c.share = 1; c.runs(build("v"), false) }, []plan.Step{operate(mvm.OpWake, "w/1")}, "begin"},
		{"a build needs no share", func(c *paced) { c.share = 0 }, []plan.Step{build("w")}, "begin"},

		{"the object has a task", func(c *paced) { c.runs(operate(mvm.OpWake, "w/1"), false) }, []plan.Step{operate(mvm.OpStop, "w/1")}, "wait"},
		{"the object waits for its next try", failed("w/1", true), []plan.Step{operate(mvm.OpWake, "w/1"), operate(mvm.OpWake, "w/2")}, "wait begin"},
		{"the object may be tried again", failed("w/1", false), []plan.Step{operate(mvm.OpWake, "w/1")}, "begin"},
		{"an operation comes first", nil, []plan.Step{{Kind: plan.Restart, Target: at("w/1"), AfterOp: true}, operate(mvm.OpWake, "w/2")}, "wait begin"},
		{"its minimum time has not passed", nil, []plan.Step{{Kind: plan.Operate, Op: mvm.OpSleep, Target: at("w/1"), After: now.Add(1)}, operate(mvm.OpWake, "w/2")}, "later begin"},
		{"its minimum time has passed", nil, []plan.Step{{Kind: plan.Operate, Op: mvm.OpSleep, Target: at("w/1"), After: now}}, "begin"},

		{"the image comes first", nil, []plan.Step{build("w"), create("w"), create("v"), operate(mvm.OpWake, "w/1")}, "begin wait begin wait"},
		{"the image comes first, which somebody builds", func(c *paced) { c.runs(build("w"), false) }, []plan.Step{build("w"), create("w"), create("v")}, "wait wait begin"},
		{"the image fails, and there is another", failed("w", true), []plan.Step{build("w"), operate(mvm.OpWake, "w/1")}, "wait begin"},
		{"the image failed, and is tried again", failed("w", false), []plan.Step{build("w"), operate(mvm.OpWake, "w/1")}, "begin wait"},
		{"what goes down does not wait for the image", nil, []plan.Step{build("w"), operate(mvm.OpSleep, "w/1")}, "begin begin"},
		{"a restart is for nothing before the image", nil, []plan.Step{build("w"), {Kind: plan.Restart, Target: at("w/1"), AwaitsBuild: true}}, "begin wait"},

		{"gateways come up first", nil, []plan.Step{operate(mvm.OpStart, "g/7"), create("g"), create("w")}, "begin begin wait"},
		{"gateways come up first, by whoever", func(c *paced) {
			c.there("g/7", func(i *mvm.Instance) { i.State = mvm.StateSleeping })
			c.o.UnderWay = map[string]plan.Way{"7": {To: mvm.StateRunning, Runs: true}}
		}, []plan.Step{create("w"), operate(mvm.OpStart, "g/8")}, "wait begin"},
		{"a user's gateway keeps nobody waiting", func(c *paced) {
			c.there("g/7", func(i *mvm.Instance) { i.State, i.Key = mvm.StateSleeping, "ann" })
			c.o.UnderWay = map[string]plan.Way{"7": {To: mvm.StateRunning, Runs: true}}
		}, []plan.Step{create("w")}, "begin"},
		{"a gateway's image keeps workers waiting", func(c *paced) { c.runs(build("g"), false) }, []plan.Step{create("w")}, "wait"},
		{"gateways go down last", nil, []plan.Step{operate(mvm.OpSleep, "w/1"), operate(mvm.OpSleep, "g/7")}, "begin wait"},
		{"gateways go down last, after what is under way", func(c *paced) { c.runs(operate(mvm.OpSleep, "w/9"), false) }, []plan.Step{operate(mvm.OpSleep, "g/7")}, "wait"},
		{"gateways go down", nil, []plan.Step{operate(mvm.OpSleep, "g/7"), operate(mvm.OpSleep, "g/8")}, "begin begin"},

		{"what is given up comes first", nil, []plan.Step{operate(mvm.OpSleep, "w/1"), operate(mvm.OpWake, "w/2"), operate(mvm.OpSleep, "w/3")}, "begin stop"},
		{"several are given up", nil, []plan.Step{operate(mvm.OpSleep, "w/1"), operate(mvm.OpWarm, "w/2"), create("w")}, "begin begin stop"},
		{"what can't be given up keeps nobody waiting", failed("w/1", true), []plan.Step{operate(mvm.OpSleep, "w/1"), operate(mvm.OpWake, "w/2")}, "wait begin"},

		{"one of a pool is restarted at a time", nil, []plan.Step{restart("w/1"), restart("w/2"), restart("v/5")}, "begin wait begin"},
		{"one of a pool is restarted at a time: under way", func(c *paced) { c.runs(restart("w/9"), true) }, []plan.Step{restart("w/1"), restart("v/5")}, "wait begin"},
		{"none is restarted while another of the pool fails", failed("w/9", false), []plan.Step{restart("w/1"), restart("v/5"), operate(mvm.OpWake, "w/2")}, "wait begin begin"},
		{"none that serves is restarted while another is not ready", func(c *paced) {
			c.there("w/1", nil)
			c.there("w/2", notReady)
		}, []plan.Step{restart("w/1")}, "wait"},
		{"one that does not serve is restarted at once", func(c *paced) {
			c.there("w/1", notReady)
			c.there("w/2", notReady)
		}, []plan.Step{restart("w/1")}, "begin"},
		{"one whose service gave up is restarted at once", func(c *paced) {
			c.gaveUp = "1"
			c.there("w/1", nil)
			c.there("w/2", notReady)
		}, []plan.Step{restart("w/1")}, "begin"},
		{"others of the pool are ready", func(c *paced) {
			c.there("w/1", nil)
			c.there("w/2", nil)
			c.there("v/3", notReady)
		}, []plan.Step{restart("w/1")}, "begin"},
		{"records are no tasks", nil, []plan.Step{{Kind: plan.UpdatePool, Target: at("w")}, operate(mvm.OpWake, "w/1")}, "begin"},
		{"steps on one instance are one task", nil, []plan.Step{operate(mvm.OpStart, "w/1"), operate(mvm.OpWarm, "w/1"), operate(mvm.OpSleep, "w/1")}, "begin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &paced{share: 4, o: plan.Observed{Tenant: &mvm.Tenant{ID: "acme"}, Now: now}}
			for _, pool := range []string{"g", "w", "v"} {
				p.o.Pools = append(p.o.Pools, mvm.Pool{Tenant: "acme", Spec: mvm.PoolSpec{ID: pool, Role: p.role(pool)}})
			}
			if c.given != nil {
				c.given(p)
			}
			if got := p.turns(plan.Plan{Steps: c.steps}); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// turns has what may begin begin.
func (c *paced) turns(p plan.Plan) string {
	pace := plan.NewPace(c.o, p, c.objects, c.share, func(i mvm.Instance) bool { return i.ID == c.gaveUp })
	var out []string
	for _, t := range p.Tasks(c.o) {
		turn := pace.Turn(t)
		out = append(out, string(turn))
		if turn == plan.Stop {
			break
		}
		if turn == plan.Begin {
			pace.Began(t)
		}
	}
	return strings.Join(out, " ")
}

// TestPaceOfFailure: what could not begin takes nothing, and its object is not tried again.
func TestPaceOfFailure(t *testing.T) {
	p := plan.Plan{Steps: []plan.Step{create("w"), create("w"), create("v")}}
	pace := plan.NewPace(plan.Observed{Now: now}, p, nil, 1, func(mvm.Instance) bool { return false })
	tasks := p.Tasks(plan.Observed{})
	pace.Failed(tasks[0])
	if got := []plan.Turn{pace.Turn(tasks[1]), pace.Turn(tasks[2])}; got[0] != plan.Wait || got[1] != plan.Begin {
		t.Errorf("after a failure: %v, want the next of its pool to wait, and the other to begin", got)
	}
}

func TestTasks(t *testing.T) {
	p := plan.Plan{Steps: []plan.Step{build("w"), operate(mvm.OpStart, "w/1"), operate(mvm.OpWarm, "w/1"),
		{Kind: plan.Operate, Op: mvm.OpSleep, Target: at("w/1"), After: now.Add(time.Minute)}, // a task of its own, later
		{Kind: plan.Restart, Target: at("g/8"), To: mvm.StateWarm, Parked: true},
		{Kind: plan.CreateInstance, Target: at("w"), To: mvm.StateSleeping}, create("w")}}
	o := plan.Observed{Pools: []mvm.Pool{{Spec: mvm.PoolSpec{ID: "g", Role: mvm.RoleGateway}}, {Spec: mvm.PoolSpec{ID: "w", Role: mvm.RoleWorker}}}}
	var got []string
	for _, t := range p.Tasks(o) {
		ops := make([]string, len(t.Ops))
		for n, op := range t.Ops {
			ops[n] = string(op)
		}
		got = append(got, strings.Join([]string{t.Key, string(t.Role), strings.Join(ops, "+"), string(t.To)}, " "))
	}
	want := []string{"acme/w worker  ", "1 worker start+warm warm", "8 gateway stop+start+warm warm", "acme/w#new worker create+start+sleep sleeping", "acme/w#new worker create+start running"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnready(t *testing.T) {
	c := &paced{o: plan.Observed{Now: now, UnderWay: map[string]plan.Way{"busy": {}}}}
	c.there("w/is", func(i *mvm.Instance) { i.Ready = false })
	for id, change := range map[string]func(*mvm.Instance){
		"ready":   func(i *mvm.Instance) {},
		"asleep":  func(i *mvm.Instance) { i.Ready, i.State = false, mvm.StateSleeping },
		"problem": func(i *mvm.Instance) { i.Ready, i.Problem = false, "no image" },
		"op":      func(i *mvm.Instance) { i.Ready, i.Op = false, &mvm.Op{Kind: mvm.OpStop} },
		"busy":    func(i *mvm.Instance) { i.Ready = false },
		"by-hand": func(i *mvm.Instance) { i.Ready, i.ManualOverrideUntil = false, now.Add(time.Second) },
	} {
		c.there("w/"+id, change)
	}
	if got := c.o.Unready(); len(got) != 1 || got[0].Key != "is" || !got[0].Rises() {
		t.Errorf("%+v, want one task, for the instance that nobody waits for", got)
	}
}
