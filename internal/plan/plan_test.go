package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deployment(pools ...mvm.PoolSpec) mvm.Deployment {
	return mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme"}, Pools: pools}
}

func TestFirstDeployment(t *testing.T) {
	d := deployment(poolSpec("workers", mvm.RoleWorker, 2, 1, 1), poolSpec("gateways", mvm.RoleGateway, 1, 0, 0))
	d.Secrets = map[string][]byte{"k": []byte("SECRET")}
	w := newWorld()
	p := w.run(t, d, plan.Options{})
	want := []string{
		"create acme", "set-secrets acme",
		"create acme/gateways", "build acme/gateways", "create acme/workers", "build acme/workers",
		"create-instance acme/gateways",
		"create-instance acme/workers", "create-instance acme/workers", "create-instance acme/workers", "create-instance acme/workers",
	}
	if diff := cmp.Diff(want, lines(p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if u := w.usage(); u.Running != 3 || u.Warm != 1 || len(w.instances) != 5 {
		t.Errorf("got %+v of %d instances, want 3 running, 1 warm, 1 sleeping", u, len(w.instances))
	}
	for _, s := range p.Display() {
		if s.Reason == "" || strings.Contains(s.Reason+s.Target, "SECRET") {
			t.Errorf("step %+v has no reason, or a secret", s)
		}
	}
	if p := w.run(t, d, plan.Options{}); len(p.Steps) != 0 || len(p.Notes) != 0 {
		t.Errorf("the second time got %v %v, want nothing", lines(p), p.Notes)
	}
}

// set up makes a world with the deployment applied, but none of its instances.
func setUp(t *testing.T, d mvm.Deployment) *world {
	t.Helper()
	w := newWorld()
	empty := d
	empty.Pools = nil
	for _, p := range d.Pools {
		p.Desired = mvm.Counts{}
		empty.Pools = append(empty.Pools, p)
	}
	w.run(t, empty, plan.Options{})
	for id, p := range w.pools {
		for _, spec := range d.Pools {
			if spec.ID == id {
				p.Spec = spec
			}
		}
	}
	return w
}

func TestInstances(t *testing.T) {
	const (
		running, warm, sleeping, stopped, ready = mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped, mvm.StateReady
	)
	spec := func(running, warm, sleeping int) mvm.PoolSpec {
		return poolSpec("p", mvm.RoleWorker, running, warm, sleeping)
	}
	for _, c := range []struct {
		name   string
		spec   mvm.PoolSpec
		states []mvm.State
		change func(*world)
		want   []string // i-… is the last digit of the id
	}{
		{"in order: warm, sleeping, stopped, new", spec(5, 0, 0), []mvm.State{ready, stopped, sleeping, warm}, nil,
			[]string{"resume 4", "wake 3", "start 1", "start 2", "create-instance "}},
		{"oldest first", spec(1, 0, 0), []mvm.State{sleeping, sleeping}, nil, []string{"wake 1"}},
		{"a surplus sleeps, newest first", spec(1, 0, 0), []mvm.State{running, running, running}, nil, []string{"sleep 3", "sleep 2"}},
		{"a surplus becomes warm first", spec(1, 1, 0), []mvm.State{running, running, running}, nil, []string{"warm 3", "sleep 2"}},
		{"a surplus of warm sleeps", spec(0, 1, 1), []mvm.State{warm, warm}, nil, []string{"sleep 2"}},
		{"a sleeper too many becomes warm", spec(0, 1, 1), []mvm.State{sleeping, sleeping}, nil, []string{"wake 1", "warm 1"}},
		{"stopped ones become sleepers", spec(0, 0, 2), []mvm.State{stopped, running}, nil, []string{"sleep 2", "start 1", "sleep 1"}},
		{"sleepers too many are left", spec(0, 0, 0), []mvm.State{sleeping, stopped, ready}, nil, nil},
		{"none is ever stopped", spec(0, 0, 0), []mvm.State{running, warm}, nil, []string{"sleep 1", "sleep 2"}},
		{"a user's counts, whatever its state", spec(2, 0, 0), []mvm.State{running, sleeping}, func(w *world) {
			w.instances["i-00000001"].Key, w.instances["i-00000002"].Key = "ann", "bob"
		}, nil},
		{"a user's is one of those desired", spec(2, 0, 0), []mvm.State{sleeping}, func(w *world) {
			w.instances["i-00000001"].Key = "ann"
		}, []string{"create-instance "}},
		{"a user's whose VMM ended comes back", spec(1, 0, 0), []mvm.State{stopped}, usersEnd(mvm.ParseAsker("agent")), []string{"start 1"}},
		{"a user's whose VMM ended comes back, pinned", pinned(spec(1, 0, 0)), []mvm.State{stopped, running}, usersEnd(mvm.ParseAsker("agent")), []string{"start 1"}},
		{"a user's whose VMM ended comes back, none desired", spec(0, 0, 0), []mvm.State{stopped}, usersEnd(mvm.ParseAsker("agent")), []string{"start 1"}},
		{"a user's whose VMM ended comes back before a spare is woken", spec(1, 0, 1), []mvm.State{stopped, sleeping}, usersEnd(mvm.ParseAsker("agent")), []string{"start 1"}},
		{"a user's whose restart failed comes back", spec(1, 0, 0), []mvm.State{stopped}, usersEnd(mvm.Asker{Kind: mvm.AskerReconcile}), []string{"start 1"}},
		{"a user's that a person stopped stays", spec(1, 0, 0), []mvm.State{stopped}, usersEnd(mvm.ParseAsker("cli:root")), nil},
		{"a user's that a person stopped, and recovery finished that, stays", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			usersEnd(mvm.ParseAsker("agent"))(w)
			w.instances["i-00000001"].Last.Unwanted = false
		}, nil},
		{"a user's whose VMM ended, and which served nobody", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			usersEnd(mvm.ParseAsker("agent"))(w)
			w.instances["i-00000001"].Unproven = true
		}, nil},
		{"a user's whose VMM ended, and which a person has", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			usersEnd(mvm.ParseAsker("agent"))(w)
			byHand("i-00000001")(w)
		}, nil},
		{"a user's whose VMM ended, critical", critical(spec(1, 0, 0)), []mvm.State{stopped}, usersEnd(mvm.ParseAsker("agent")), nil},
		{"a user's whose VMM ended, without room", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			usersEnd(mvm.ParseAsker("agent"))(w)
			w.tenant.Quota.MaxRunning = 0
		}, nil},
		{"changed by hand: stopped", spec(1, 0, 0), []mvm.State{stopped}, byHand("i-00000001"), nil},
		{"changed by hand: put to sleep", spec(1, 0, 0), []mvm.State{sleeping}, byHand("i-00000001"), nil},
		{"changed by hand: started", spec(1, 0, 0), []mvm.State{running, running}, byHand("i-00000002"), nil},
		{"changed by hand, long ago", spec(1, 0, 0), []mvm.State{stopped}, func(w *world) {
			w.instances["i-00000001"].ManualOverrideUntil = now
		}, []string{"start 1"}},
		{"on its way up", spec(1, 0, 0), []mvm.State{sleeping}, busy("i-00000001", mvm.OpWake), nil},
		{"on its way down", spec(1, 0, 0), []mvm.State{running}, busy("i-00000001", mvm.OpSleep), nil},
		{"being destroyed", spec(1, 0, 0), []mvm.State{running}, busy("i-00000001", mvm.OpDestroy), []string{"create-instance "}},
		{"pinned: nothing is paused or put to sleep", pinned(spec(1, 1, 1)), []mvm.State{running, running, running}, nil,
			[]string{"create-instance ", "create-instance "}},
		{"pinned: a deficit is filled", pinned(spec(3, 0, 0)), []mvm.State{sleeping, warm, stopped}, nil, []string{"resume 2", "wake 1", "start 3"}},
		{"critical: nothing is touched", critical(spec(2, 0, 0)), []mvm.State{sleeping, stopped, running}, nil, nil},
		{"critical: missing ones are made", critical(spec(2, 1, 0)), []mvm.State{stopped}, nil, []string{"create-instance ", "create-instance "}},
		{"critical: too many", critical(spec(0, 0, 0)), []mvm.State{running, warm}, nil, nil},
		{"parked: counts as the running one that it was", spec(2, 0, 0), []mvm.State{sleeping, warm}, parked("i-00000001", "i-00000002"), nil},
		{"parked: stands for a warm one next", spec(1, 1, 0), []mvm.State{sleeping, sleeping}, parked("i-00000001", "i-00000002"), nil},
		{"parked: is no sleeper as long as it stands for one", spec(1, 0, 1), []mvm.State{sleeping}, parked("i-00000001"), []string{"create-instance "}},
		{"parked: scaling up makes what is missing", spec(3, 0, 0), []mvm.State{sleeping, warm}, parked("i-00000001", "i-00000002"), []string{"create-instance "}},
		{"parked: scaling up wakes a sleeper that is none", spec(2, 0, 0), []mvm.State{sleeping, sleeping}, parked("i-00000001"), []string{"wake 2"}},
		{"parked: scaling down puts a warm one to sleep", spec(1, 0, 0), []mvm.State{running, warm}, parked("i-00000002"), []string{"sleep 2"}},
		{"parked: scaling down leaves a sleeper", spec(1, 0, 0), []mvm.State{running, sleeping}, parked("i-00000002"), nil},
		{"parked: scaling down keeps the warm one of two", spec(1, 0, 0), []mvm.State{sleeping, warm}, parked("i-00000001", "i-00000002"), nil},
		{"parked: a running one too many sleeps, the parked one stays", spec(1, 0, 0), []mvm.State{sleeping, running, running}, parked("i-00000001"), []string{"sleep 3"}},
		{"parked: counts for a user's too", spec(1, 0, 1), []mvm.State{sleeping, sleeping}, func(w *world) {
			w.instances["i-00000001"].Key, w.instances["i-00000001"].Parked = "ann", true
		}, nil},
		{"parked: on its way there", spec(1, 0, 1), []mvm.State{running, sleeping}, func(w *world) {
			w.instances["i-00000001"].Op = &mvm.Op{Kind: mvm.OpSleep, By: mvm.Asker{Kind: mvm.AskerPolicy}}
		}, nil},
		{"woken by a request: the policy puts it to rest", spec(0, 0, 0), []mvm.State{running}, woken("i-00000001"), nil},
		{"woken by a request: was a sleeper that is desired", spec(0, 0, 1), []mvm.State{running}, woken("i-00000001"), nil},
		{"woken by a timer, which plan does not know: the policy puts it to rest", spec(0, 0, 1), []mvm.State{running}, wokenBy("i-00000001", "timer:i-00000001"), nil},
		{"woken by an inbox, which plan does not know: the policy puts it to rest", spec(0, 0, 0), []mvm.State{running}, wokenBy("i-00000001", "inbox"), nil},
		{"woken by a person, after the override: is put to sleep", spec(0, 0, 0), []mvm.State{running}, wokenBy("i-00000001", "cli:root"), []string{"sleep 1"}},
		{"started by reconcile: is put to sleep", spec(0, 0, 0), []mvm.State{running}, wokenBy("i-00000001", "reconcile"), []string{"sleep 1"}},
		{"woken by a request: runs as desired", spec(1, 0, 0), []mvm.State{running, sleeping}, woken("i-00000001"), nil},
		{"on its way by a task: counts as what it becomes", spec(1, 0, 1), []mvm.State{stopped, running}, func(w *world) {
			w.underWay = map[string]plan.Way{"i-00000001": {To: running, Runs: true}, "i-00000002": {To: sleeping}}
		}, nil},
		{"on its way down: holds its place in the quota", spec(2, 0, 0), []mvm.State{running, running, stopped}, func(w *world) {
			w.tenant.Quota.MaxRunning = 2
			w.underWay = map[string]plan.Way{"i-00000002": {To: sleeping}}
		}, nil},
		{"on its way down: a committed sleep holds memory until its VMM is gone", spec(2, 0, 0), []mvm.State{sleeping, stopped}, func(w *world) {
			w.tenant.Quota.MaxVCPUs = 2
			w.instances["i-00000001"].Op = &mvm.Op{Kind: mvm.OpSleep}
		}, nil},
		{"on its way up: becomes the warm one later", spec(1, 1, 0), []mvm.State{running, ready}, busy("i-00000002", mvm.OpStart), nil},
		{"on its way down: comes up again later", spec(2, 0, 0), []mvm.State{running, running}, busy("i-00000002", mvm.OpStop), nil},
		{"on its way up by a request: is the sleeper later", spec(1, 0, 1), []mvm.State{running, sleeping}, func(w *world) {
			w.instances["i-00000002"].Op = &mvm.Op{Kind: mvm.OpWake, By: mvm.ParseAsker("gateway:i-0a0b0c0d")}
		}, nil},
		{"on its way by a task: what is not desired any more", spec(0, 1, 0), []mvm.State{ready}, func(w *world) {
			w.underWay = map[string]plan.Way{"i-00000001": {To: running, Runs: true}}
		}, nil},
		{"changed by hand: woken, was a sleeper that is desired", spec(0, 0, 1), []mvm.State{running}, byHand("i-00000001"), nil},
		{"behind: is restarted", spec(1, 1, 0), []mvm.State{running, warm, sleeping}, func(w *world) {
			for _, i := range w.instances {
				i.Image = "sha256:old"
			}
		}, []string{"restart 1", "restart 2"}},
		{"quota max_running: resume rather than nothing", spec(3, 0, 0), []mvm.State{running, warm, sleeping},
			func(w *world) { w.tenant.Quota.MaxRunning = 2 }, []string{"resume 2"}},
		{"quota max_vcpus", spec(3, 0, 0), []mvm.State{running, sleeping, stopped}, func(w *world) { w.tenant.Quota.MaxVCPUs = 5 }, []string{"wake 2"}},
		{"quota max_mem_mib", spec(3, 0, 0), []mvm.State{running, sleeping, stopped}, func(w *world) { w.tenant.Quota.MaxMemMiB = 2047 }, nil},
		{"quota max_warm", spec(0, 2, 0), nil, func(w *world) { w.tenant.Quota.MaxWarm = 1 }, []string{"create-instance "}},
		{"quota max_instances_per_pool", spec(2, 0, 0), []mvm.State{running}, func(w *world) { w.tenant.Quota.MaxInstancesPerPool = 1 }, nil},
		{"quota max_disk_gib", disk(spec(3, 0, 0)), nil, func(w *world) { w.tenant.Quota.MaxDiskGiB = 2 }, []string{"create-instance ", "create-instance "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := deployment(c.spec)
			w := setUp(t, d)
			w.with(t, "p", c.states...)
			if c.change != nil {
				c.change(w)
			}
			p := w.run(t, d, plan.Options{})
			got := []string{}
			for _, l := range lines(p) {
				l = strings.ReplaceAll(l, "acme/p/i-0000000", "")
				got = append(got, strings.ReplaceAll(l, "acme/p", ""))
			}
			if diff := cmp.Diff(append([]string{}, c.want...), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			again := w.run(t, d, plan.Options{})
			if len(again.Steps) != 0 {
				t.Errorf("the second time got %v, want nothing", lines(again))
			}
			if strings.HasPrefix(c.name, "quota") && (len(again.Notes) != 1 || !strings.Contains(again.Notes[0], strings.Fields(c.name)[1][:8])) {
				t.Errorf("got notes %q, want one that names the quota", again.Notes)
			}
		})
	}
}

func byHand(id string) func(*world) {
	return func(w *world) { w.instances[id].ManualOverrideUntil = now.Add(time.Minute) }
}

// usersEnd makes the first instance a user's that somebody stopped.
func usersEnd(by mvm.Asker) func(*world) {
	return func(w *world) { w.instances["i-00000001"].Key, w.instances["i-00000001"].Last = "ann", crash(by) }
}

func crash(by mvm.Asker) *mvm.Transition {
	return &mvm.Transition{Op: mvm.OpStop, From: mvm.StateRunning, To: mvm.StateStopped, By: by, Unwanted: !by.Kind.Person()}
}

func woken(id string) func(*world) { return wokenBy(id, "gateway:i-0a0b0c0d") }

func wokenBy(id, by string) func(*world) {
	return func(w *world) { w.instances[id].Last = &mvm.Transition{Op: mvm.OpWake, By: mvm.ParseAsker(by)} }
}

func busy(id string, op mvm.OpKind) func(*world) {
	return func(w *world) { w.instances[id].Op = &mvm.Op{Kind: op} }
}

func parked(ids ...string) func(*world) {
	return func(w *world) {
		for _, id := range ids {
			w.instances[id].Parked = true
		}
	}
}

func pinned(s mvm.PoolSpec) mvm.PoolSpec   { s.Pinned = true; return s }
func critical(s mvm.PoolSpec) mvm.PoolSpec { s.Critical = true; return s }
func disk(s mvm.PoolSpec) mvm.PoolSpec     { s.Resources.DataDiskMiB = 1024; return s }

func TestSleepingGoesInReverseRoleOrder(t *testing.T) {
	d := deployment(poolSpec("gateways", mvm.RoleGateway, 0, 0, 0), poolSpec("workers", mvm.RoleWorker, 0, 0, 0), poolSpec("builders", mvm.RoleBuilder, 1, 0, 0))
	w := setUp(t, d)
	w.with(t, "gateways", mvm.StateRunning)
	w.with(t, "workers", mvm.StateRunning)
	want := []string{"create-instance acme/builders", "sleep acme/workers/i-00000002", "sleep acme/gateways/i-00000001"}
	if diff := cmp.Diff(want, lines(w.run(t, d, plan.Options{}))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMinimumTimes: what has not been long enough in its state waits, and does not go
// in place of another.
func TestMinimumTimes(t *testing.T) {
	d := deployment(poolSpec("p", mvm.RoleWorker, 1, 0, 0))
	d.Pools[0].Policy.MinRunningSeconds = 60
	w := setUp(t, d)
	w.with(t, "p", mvm.StateRunning, mvm.StateRunning, mvm.StateRunning)
	w.instances["i-00000003"].Changed = now.Add(-20 * time.Second)
	w.instances["i-00000002"].Changed = now.Add(-70 * time.Second)
	p, err := plan.Make(d, w.observed(), plan.Options{})
	want := []string{"sleep acme/p/i-00000003", "sleep acme/p/i-00000002"}
	if diff := cmp.Diff(want, lines(p)); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if at := p.Steps[0].After; !at.Equal(now.Add(40*time.Second)) || p.Steps[0].Limit != "min_running_seconds" || !p.Steps[1].After.IsZero() {
		t.Errorf("got %+v, want the newest to wait for 40 s, and the other not", p.Steps)
	}
}

// What one pool gives up another gets, in the same plan.
func TestQuotaThatIsFreedIsUsed(t *testing.T) {
	d := deployment(poolSpec("a", mvm.RoleWorker, 2, 0, 0), poolSpec("b", mvm.RoleWorker, 0, 0, 0))
	w := setUp(t, d)
	w.tenant.Quota.MaxRunning = 2
	w.with(t, "b", mvm.StateRunning, mvm.StateRunning)
	p := w.run(t, d, plan.Options{})
	want := []string{"sleep acme/b/i-00000002", "sleep acme/b/i-00000001", "create-instance acme/a", "create-instance acme/a"}
	if diff := cmp.Diff(want, lines(p)); diff != "" || len(p.Notes) != 0 {
		t.Errorf("notes %q (-want +got):\n%s", p.Notes, diff)
	}
}

func TestChanges(t *testing.T) {
	d := deployment(poolSpec("p", mvm.RoleWorker, 0, 0, 0))
	d.Secrets = map[string][]byte{"k": []byte("1")}
	for name, c := range map[string]struct {
		change func(*mvm.Deployment)
		want   []string
		reason string
	}{
		"quota":     {func(d *mvm.Deployment) { q := mvm.DefaultQuota(); q.MaxWarm = 0; d.Tenant.Quota = &q }, []string{"update acme"}, "quota"},
		"pinned":    {func(d *mvm.Deployment) { d.Tenant.Pinned = true }, []string{"update acme"}, "pinned"},
		"services":  {func(d *mvm.Deployment) { d.Tenant.HostServices = []int{80} }, []string{"update acme"}, "host_services"},
		"secret":    {func(d *mvm.Deployment) { d.Secrets = map[string][]byte{"k": []byte("2")} }, []string{"set-secrets acme"}, "replace k"},
		"other":     {func(d *mvm.Deployment) { d.Secrets = map[string][]byte{"j": []byte("1")} }, []string{"set-secrets acme"}, "add j, remove k"},
		"no secret": {func(d *mvm.Deployment) { d.Secrets = map[string][]byte{} }, []string{"set-secrets acme"}, "remove k"},
		"unnamed":   {func(d *mvm.Deployment) { d.Secrets = nil }, []string{}, ""},
		"resources": {func(d *mvm.Deployment) { d.Pools[0].Resources.VCPUs = 1 }, []string{"update acme/p"}, "resources"},
		"env":       {func(d *mvm.Deployment) { d.Pools[0].Env = map[string]string{"A": "b"} }, []string{"update acme/p"}, "env"},
		"empty":     {func(d *mvm.Deployment) { d.Pools[0].Env = map[string]string{} }, []string{}, ""},
		"image":     {func(d *mvm.Deployment) { d.Pools[0].Flake = "dir:/x" }, []string{"update acme/p", "build acme/p"}, "flake"},
		"one fewer": {func(d *mvm.Deployment) { d.Pools = nil }, []string{}, ""},
		"one more":  {func(d *mvm.Deployment) { d.Pools = append(d.Pools, poolSpec("q", mvm.RoleWorker, 0, 0, 0)) }, []string{"create acme/q", "build acme/q"}, "not there"},
	} {
		t.Run(name, func(t *testing.T) {
			w := setUp(t, d)
			w.tenant.SecretNames = []string{"k"}
			changed := d
			changed.Pools = append([]mvm.PoolSpec{}, d.Pools...)
			c.change(&changed)
			p := w.run(t, changed, plan.Options{})
			if diff := cmp.Diff(c.want, lines(p)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(p.Steps) > 0 && !strings.Contains(p.Steps[0].Reason, c.reason) {
				t.Errorf("got reason %q, want it to say %q", p.Steps[0].Reason, c.reason)
			}
			if again := w.run(t, changed, plan.Options{}); len(again.Steps) != 0 {
				t.Errorf("the second time got %v", lines(again))
			}
		})
	}
}

func TestPrune(t *testing.T) {
	all := deployment(poolSpec("g", mvm.RoleGateway, 1, 0, 0), poolSpec("old", mvm.RoleWorker, 1, 0, 0), poolSpec("keep", mvm.RoleWorker, 1, 0, 0))
	w := newWorld()
	w.run(t, all, plan.Options{})
	w.tenant.Quota.MaxRunning = 3
	d := deployment(poolSpec("keep", mvm.RoleWorker, 3, 0, 0))
	p := w.run(t, d, plan.Options{Prune: true})
	want := []string{"destroy acme/old", "destroy acme/g", "update acme/keep", "create-instance acme/keep", "create-instance acme/keep"}
	if diff := cmp.Diff(want, lines(p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatCannotBe(t *testing.T) {
	d := deployment(poolSpec("p", mvm.RoleWorker, 0, 0, 0))
	seven := 7
	for name, c := range map[string]struct {
		change func(*mvm.Deployment)
		want   mvm.Kind
	}{
		"other net_id": {func(d *mvm.Deployment) { d.Tenant.NetID = &seven }, mvm.KindState},
		"other subnet": {func(d *mvm.Deployment) { d.Tenant.Subnet = mvm.DefaultSubnet(7) }, mvm.KindState},
		"other role":   {func(d *mvm.Deployment) { d.Pools = []mvm.PoolSpec{poolSpec("p", mvm.RoleBuilder, 0, 0, 0)} }, mvm.KindState},
		"too many pools": {func(d *mvm.Deployment) {
			q := mvm.DefaultQuota()
			q.MaxPools = 1
			d.Tenant.Quota = &q
			d.Pools = []mvm.PoolSpec{poolSpec("q", mvm.RoleWorker, 0, 0, 0)}
		}, mvm.KindQuota},
		"not valid": {func(d *mvm.Deployment) { d.Tenant.ID = "" }, mvm.KindInvalid},
	} {
		w := setUp(t, d)
		changed := d
		c.change(&changed)
		p, err := plan.Make(changed, w.observed(), plan.Options{})
		if !mvm.IsKind(err, c.want) || len(p.Steps) != 0 {
			t.Errorf("%s: got %v %v, want kind %s and no step", name, lines(p), err, c.want)
		}
	}
}
