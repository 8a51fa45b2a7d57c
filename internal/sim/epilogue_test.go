package sim_test

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
)

// epilogue is a tenant's life on the host after all that happened to it, with nothing
// going wrong any more: what policy, reconcile and a gateway promise a user is kept.
func (w *world) epilogue() {
	const tenant = endTenant
	gw, pool := w.endPool("gw", mvm.RoleGateway), w.endPool("w", mvm.RoleWorker)
	w.letGoOfState()
	w.do("create tenant", func(ctx context.Context, a api.Service) error {
		_, err := a.CreateTenant(ctx, mvm.TenantSpec{ID: tenant})
		return err
	})
	for _, spec := range []mvm.PoolSpec{gw, pool} {
		w.do("create pool "+spec.ID, func(ctx context.Context, a api.Service) error {
			_, err := a.CreatePool(ctx, tenant, spec)
			return err
		})
	}
	i, ok := w.one(tenant, "w")
	if !ok || i.State != mvm.StateRunning {
		w.fail("epilogue: the worker that is wanted is %q", i.State)
	}
	w.inUseStays(i)
	w.idleRests(i)
	at := time.Now().Add(endNextWake).Truncate(time.Millisecond) // as exact as records are
	w.host.Behave(i.ID, fake.Behavior{NextWake: at})
	w.overrideHolds(i, pool)
	w.timerOutlivesAgent(i, at)
	w.filesFit()
	w.keyIsServed(tenant)
	w.stateIsHeld(tenant)
	w.model.doomed[tenant] = true
	w.do("destroy tenant", func(ctx context.Context, a api.Service) error { return a.DestroyTenant(ctx, tenant, nil) })
	if _, ok := w.model.tenants[tenant]; ok {
		w.fail("epilogue: the tenant is still there")
	}
}

// filesFit: after all that happened, each file on the host belongs to a record, and each record
// has its files.
func (w *world) filesFit() {
	w.do("check files", func(ctx context.Context, a api.Service) error {
		found, err := a.NodeCheck(ctx, mvm.NodeCheck{}, nil)
		for _, f := range found {
			if f.Severity != "error" { // as of an instance that gets its first data disk when it starts
				continue
			}
			w.fail("epilogue: %s: %s: %s", f.Severity, f.Where, f.What)
		}
		return err
	})
}

// endTenant is the epilogue's.
const endTenant = "end"

// The times of the epilogue's pools, in seconds.
const (
	endMinRunning = 200 // longer than what makes it warm
	endWarmAfter  = 30
	endSleepAfter = 60
)

func (w *world) endPool(id string, role mvm.Role) mvm.PoolSpec {
	var routes *mvm.RoutingTable
	if role == mvm.RoleGateway {
		routes = simRoutes("w")
	}
	return mvm.PoolSpec{ID: id, Role: role, Routes: routes, Profile: "minimal", Flake: "sim:end", Resources: mvm.Resources{VCPUs: 1, MemMiB: 128},
		Desired: mvm.Counts{Running: 1}, Policy: mvm.RuntimePolicy{MinRunningSeconds: endMinRunning, MinWarmSeconds: 1, DrainTimeoutSeconds: 1,
			WarmAfterSeconds: endWarmAfter, SleepAfterSeconds: endSleepAfter}}
}

// do has the agent asked, and waits until the host is at rest again.
func (w *world) do(name string, fn func(ctx context.Context, a api.Service) error) {
	w.doAs(mvm.ParseAsker("api:end"), name, fn)
}

func (w *world) doAs(by mvm.Asker, name string, fn func(ctx context.Context, a api.Service) error) {
	if w.failed() != "" {
		return
	}
	w.issue(by, name, func(ctx context.Context, l *life) error { return fn(ctx, l.a) }, func(err error) {
		if err != nil {
			w.fail("epilogue: %s: %v", name, err)
		}
	})
	for w.failed() == "" && len(w.cmds) > 0 {
		w.goOn()
	}
	w.comeToRest("epilogue: " + name)
}

// goOn lets one goroutine go on, or time pass.
func (w *world) goOn() {
	w.settle()
	w.checkSpin()
	if pts := w.s.points(); len(pts) > 0 {
		w.letGo(pts[w.rng.IntN(len(pts))])
	} else {
		w.pass(5 * time.Second)
	}
}

// elapse lets everybody go on for a while.
func (w *world) elapse(d time.Duration) {
	for end := time.Now().Add(d); w.failed() == "" && time.Now().Before(end); {
		w.goOn()
	}
	w.settle()
}

// one returns the pool's instance without a key.
func (w *world) one(tenant, pool string) (mvm.Instance, bool) {
	for _, s := range w.model.instances {
		if s.now.Tenant == tenant && s.now.Pool == pool && s.now.Key == "" {
			return s.now, true
		}
	}
	return mvm.Instance{}, false
}

func (w *world) stateOf(i mvm.Instance) mvm.State {
	if s := w.model.instances[i.ID]; s != nil {
		return s.now.State
	}
	return mvm.StateDestroyed
}

// report has the gateway say how many connections are open to the instance.
func (w *world) report(i mvm.Instance, n int) {
	gw, _ := w.one(i.Tenant, "gw")
	w.do("report activity", func(ctx context.Context, _ api.Service) error {
		_, err := w.hostCall(ctx, gw.ID, guestproto.HostRequest{ReportActivity: &guestproto.ReportActivity{
			Instances: []guestproto.Activity{{InstanceID: i.ID, Connections: n, LastActive: time.Now()}}}})
		return err
	})
}

// inUseStays: an instance with an open connection is not put to rest.
func (w *world) inUseStays(i mvm.Instance) {
	w.report(i, 1)
	w.elapse(4 * endSleepAfter * time.Second)
	if s := w.stateOf(i); s != mvm.StateRunning {
		w.fail("epilogue: instance %s has a connection open and is %s", i.ID, s)
	}
	w.report(i, 0)
}

// idleRests: an idle one is, and not before its minimum time.
func (w *world) idleRests(i mvm.Instance) {
	w.elapse(4 * endSleepAfter * time.Second)
	if s := w.stateOf(i); s != mvm.StateSleeping {
		w.fail("epilogue: instance %s is idle for long and is %s", i.ID, s)
	}
}

// overrideHolds: what a person woke stays so for as long as the override, though
// reconcile would have it otherwise, and no longer.
func (w *world) overrideHolds(i mvm.Instance, pool mvm.PoolSpec) {
	w.doAs(mvm.ParseAsker("cli:root"), "wake by hand", func(ctx context.Context, a api.Service) error {
		_, err := a.Operate(ctx, mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil)
		return err
	})
	woken := time.Now()
	pool.Desired.Running = 0
	w.do("want none", func(ctx context.Context, a api.Service) error {
		_, err := a.UpdatePool(ctx, i.Tenant, pool.ID, mvm.PoolUpdate{Spec: &pool})
		return err
	})
	w.elapse(9*time.Minute - time.Since(woken))
	if s := w.stateOf(i); s != mvm.StateRunning {
		w.fail("epilogue: instance %s was woken by hand and is %s before the override ends", i.ID, s)
	}
	w.elapse(5 * time.Minute)
	if s := w.stateOf(i); s != mvm.StateSleeping {
		w.fail("epilogue: instance %s is %s, and nobody wants it awake", i.ID, s)
	}
}

// keyIsServed: a request of a user through the gateway has an instance awake, of the
// user's own.
func (w *world) keyIsServed(tenant string) {
	gw, _ := w.one(tenant, "gw")
	for _, key := range []string{"ann", "bob", "ann"} {
		w.do("acquire "+key, func(ctx context.Context, _ api.Service) error {
			resp, err := w.hostCall(ctx, gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: tenant, PoolID: "w", Key: key}})
			if err != nil {
				return err
			}
			return acquired(resp)
		})
	}
	w.elapse(endMinRunning / 2 * time.Second) // idle, and too young to rest: see checkMinimum
}

// checkMinimum: the policy puts nothing to rest that has not run for the minimum time.
func (w *world) checkMinimum(was, i mvm.Instance) {
	if i.Tenant != endTenant || was.State != mvm.StateRunning || was.Op != nil || i.Op == nil || i.Op.By.Kind != mvm.AskerPolicy {
		return
	}
	if ran := i.Op.Started.Sub(was.Changed); ran < endMinRunning*time.Second {
		w.fail("the policy puts instance %s to rest after %s", i.ID, ran)
	}
}
