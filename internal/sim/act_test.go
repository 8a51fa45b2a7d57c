package sim_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
)

// deed is something that the world can do.
type deed struct {
	weight int
	do     func(w *world)
}

// deeds returns what the world does, with how often.
func deeds() []deed {
	return []deed{
		{4, (*world).createTenant},
		{3, (*world).updateTenant},
		{1, (*world).destroyTenant},
		{8, (*world).createPool},
		{4, (*world).updatePool},
		{1, (*world).destroyPool},
		{2, (*world).keepPool},
		{14, (*world).createInstance},
		{50, (*world).operate},
		{3, (*world).destroyInstance},
		{18, (*world).acquire},
		{6, (*world).wakeFromGuest},
		{5, (*world).secrets},
		{6, (*world).deploy},
		{4, (*world).push},
		{2, (*world).forget},
		{25, (*world).write},
		{4, (*world).killVMM},
		{8, (*world).behave},
		{4, (*world).setFaults},
		{4, (*world).lack},
		{4, (*world).killAgent},
		{2, (*world).restartAgent},
		{1, (*world).powerLoss},
		{14, (*world).leap},
	}
}

// act does one thing.
func (w *world) act() {
	all := deeds()
	sum := 0
	for _, d := range all {
		sum += d.weight
	}
	n := w.rng.IntN(sum)
	for _, d := range all {
		if n -= d.weight; n < 0 {
			d.do(w)
			return
		}
	}
}

func pick[T any](w *world, from []T) (v T, ok bool) {
	if len(from) == 0 {
		return v, false
	}
	return from[w.rng.IntN(len(from))], true
}

// odd makes the time one that nothing else ends at: what happens at the same instant
// has no order.
func (w *world) odd(d time.Duration) time.Duration { return d + time.Duration(w.rng.IntN(999_983)) }

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// ask issues a command when an agent runs.
func (w *world) ask(name string, fn func(ctx context.Context, l *life) error, after func(error)) {
	l := w.life
	if l.dead.Load() || l.ending || !l.is(&l.opened) || len(w.cmds) >= maxInFlight {
		return
	}
	by := mvm.ParseAsker("api:sim")
	if w.chance(20) {
		by = mvm.ParseAsker("cli:root")
	}
	w.issue(by, name, fn, after)
}

func (w *world) tenant() string { return fmt.Sprintf("t%d", w.rng.IntN(2)) }

func (w *world) quota() mvm.Quota {
	return mvm.Quota{MaxVCPUs: 2 + w.rng.IntN(8), MaxMemMiB: 256 + 128*w.rng.IntN(12), MaxRunning: 1 + w.rng.IntN(5),
		MaxWarm: w.rng.IntN(3), MaxPools: 1 + w.rng.IntN(4), MaxInstancesPerPool: 1 + w.rng.IntN(5), MaxDiskGiB: 1 + w.rng.IntN(2)}
}

func (w *world) createTenant() {
	spec := mvm.TenantSpec{ID: w.tenant(), Pinned: w.chance(10)}
	if w.chance(60) {
		q := w.quota()
		spec.Quota = &q
	}
	w.ask("create tenant "+spec.ID, func(ctx context.Context, l *life) error {
		_, err := l.a.CreateTenant(ctx, spec)
		return err
	}, nil)
}

func (w *world) updateTenant() {
	id, q := w.tenant(), w.quota()
	w.ask("update tenant "+id, func(ctx context.Context, l *life) error {
		_, err := l.a.UpdateTenant(ctx, id, mvm.TenantUpdate{Quota: &q})
		return err
	}, nil)
}

func (w *world) destroyTenant() {
	id := w.tenant()
	w.doom(id, "destroy tenant "+id, func(ctx context.Context, l *life) error { return l.a.DestroyTenant(ctx, id, nil) })
}

// doom issues a destruction. Once asked for it may happen at any time.
func (w *world) doom(key, name string, fn func(ctx context.Context, l *life) error) {
	n := w.nextID
	w.ask(name, fn, nil)
	if w.nextID > n {
		w.model.doomed[key] = true
		w.cmds[w.nextID].dooms = key
	}
}

func (w *world) poolSpec(id string) mvm.PoolSpec {
	role := mvm.RoleWorker
	if id == "gw" {
		role = mvm.RoleGateway
	}
	n := func(most int) int { return w.rng.IntN(most) }
	p := mvm.PoolSpec{ID: id, Role: role, Profile: "minimal", Flake: fmt.Sprintf("sim:%d", n(3)),
		Resources: mvm.Resources{VCPUs: 1 + n(2), MemMiB: 128 * (1 + n(3)), DataDiskMiB: []int{0, 16, 400}[n(3)]},
		Desired:   mvm.Counts{Running: n(3), Warm: n(2), Sleeping: n(2)},
		Policy: mvm.RuntimePolicy{DrainTimeoutSeconds: n(3), GracefulShutdownSeconds: n(3), MinRunningSeconds: n(60),
			MinWarmSeconds: n(30), WarmAfterSeconds: 5 + n(300), SleepAfterSeconds: 10 + n(600)},
		Pinned: w.chance(8), Critical: w.chance(8)}
	if role == mvm.RoleGateway {
		p.Routes = simRoutes("w", "x")
	}
	if w.chance(20) {
		p.Integrations = []mvm.Integration{{Name: "chat", Critical: w.chance(50)}}
	}
	return p
}

// simRoutes lead to any instance of the pools, and by key.
func simRoutes(pools ...string) *mvm.RoutingTable {
	out := &mvm.RoutingTable{}
	for n, pool := range pools {
		for k, s := range []mvm.Selector{{Kind: mvm.SelectAny}, {Kind: mvm.SelectByKey, From: "path"}} {
			out.Routes = append(out.Routes, mvm.Route{Name: fmt.Sprintf("%s-%d", pool, k), Match: mvm.MatchRule{Port: 8000 + 10*n + k},
				To: mvm.Target{PoolID: pool, Selector: s, TargetPort: 80}})
		}
	}
	return out
}

// others are the pools of the list that are no gateways.
func others(pools []mvm.PoolSpec) (ids []string) {
	for _, p := range pools {
		if p.Role != mvm.RoleGateway {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// leadHome reports whether the pool's routes lead to pools of the list, as those of a
// deployment must.
func leadHome(s mvm.PoolSpec, pools []mvm.PoolSpec) bool {
	return s.Routes == nil || !slices.ContainsFunc(s.Routes.Routes, func(r mvm.Route) bool {
		return !slices.ContainsFunc(pools, func(to mvm.PoolSpec) bool { return to.ID == r.To.PoolID })
	})
}

func (w *world) poolID() string { return []string{"gw", "w", "x"}[w.rng.IntN(3)] }

func (w *world) createPool() {
	t, spec := w.tenant(), w.poolSpec(w.poolID())
	w.ask("create pool "+t+"/"+spec.ID, func(ctx context.Context, l *life) error {
		if _, err := l.a.CreatePool(ctx, t, spec); err != nil {
			return err
		}
		_, err := l.a.BuildPool(ctx, t, spec.ID, nil)
		return err
	}, nil)
}

func (w *world) updatePool() {
	t, spec := w.tenant(), w.poolSpec(w.poolID())
	w.ask("update pool "+t+"/"+spec.ID, func(ctx context.Context, l *life) error {
		_, err := l.a.UpdatePool(ctx, t, spec.ID, mvm.PoolUpdate{Spec: &spec})
		return err
	}, nil)
}

func (w *world) destroyPool() {
	t, p := w.tenant(), w.poolID()
	w.doom(t+"/"+p, "destroy pool "+t+"/"+p, func(ctx context.Context, l *life) error { return l.a.DestroyPool(ctx, t, p, nil) })
}

// keepPool builds, rolls back, collects garbage.
func (w *world) keepPool() {
	t, p := w.tenant(), w.poolID()
	kinds := map[string]func(ctx context.Context, l *life) error{
		"build":    func(ctx context.Context, l *life) error { _, err := l.a.BuildPool(ctx, t, p, nil); return err },
		"rollback": func(ctx context.Context, l *life) error { _, err := l.a.RollbackPool(ctx, t, p, ""); return err },
		"gc":       func(ctx context.Context, l *life) error { _, err := l.a.GCPool(ctx, t, p); return err },
		"node gc":  func(ctx context.Context, l *life) error { _, err := l.a.NodeGC(ctx); return err },
	}
	kind, _ := pick(w, slices.Sorted(maps.Keys(kinds)))
	w.ask(kind+" "+t+"/"+p, kinds[kind], nil)
}

func (w *world) userKey() string { return fmt.Sprintf("u%d", w.rng.IntN(3)) }

func (w *world) createInstance() {
	t, p, key := w.tenant(), w.poolID(), ""
	if w.chance(15) {
		key = w.userKey()
	}
	w.ask(fmt.Sprintf("create instance %s/%s@%s", t, p, key), func(ctx context.Context, l *life) error {
		_, err := l.a.CreateInstance(ctx, t, p, key)
		return err
	}, nil)
}

// instance chooses one that is there.
func (w *world) instance(ok func(s *seen) bool) (mvm.Instance, bool) {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(w.model.instances)) {
		if ok == nil || ok(w.model.instances[id]) {
			ids = append(ids, id)
		}
	}
	id, found := pick(w, ids)
	if !found {
		return mvm.Instance{}, false
	}
	return w.model.instances[id].now, true
}

func (w *world) operate() {
	i, ok := w.instance(nil)
	op, _ := pick(w, []mvm.OpKind{mvm.OpStart, mvm.OpStart, mvm.OpStop, mvm.OpWarm, mvm.OpResume, mvm.OpSleep, mvm.OpSleep, mvm.OpWake})
	force := w.chance(10)
	if !ok {
		return
	}
	w.op(i.ID, op, force)
}

func (w *world) op(id string, op mvm.OpKind, force bool) {
	w.ask(fmt.Sprintf("%s %s", op, id), func(ctx context.Context, l *life) error {
		_, err := l.a.Operate(ctx, mvm.Address{Instance: id}, mvm.OpRequest{Op: op, Force: force}, nil)
		return err
	}, nil)
}

func (w *world) destroyInstance() {
	if i, ok := w.instance(nil); ok {
		w.doom(i.ID, "destroy "+i.ID, func(ctx context.Context, l *life) error {
			_, err := l.a.Operate(ctx, mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpDestroy}, nil)
			return err
		})
	}
}

// fromGateway sends a host-bound request from a gateway that runs.
func (w *world) fromGuest(name, id string, req guestproto.HostRequest, check func(guestproto.HostResponse) error) {
	w.ask(name, func(ctx context.Context, l *life) error {
		resp, err := w.hostCall(ctx, id, req)
		if err != nil {
			return err
		}
		return check(resp)
	}, nil)
}

// hostCall asks the host as a program in the instance's guest does.
func (w *world) hostCall(ctx context.Context, id string, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	c, err := w.socks.dial(ctx, filepath.Join(w.run, "i", id, fmt.Sprintf("v.sock_%d", guestproto.HostPort)))
	if err != nil {
		return guestproto.HostResponse{}, err
	}
	defer c.Close()
	return guestproto.HostCall(ctx, c, req)
}

func runs(s *seen) bool { return s.now.State == mvm.StateRunning }

func (w *world) acquire() {
	gw, ok := w.instance(func(s *seen) bool { return runs(s) && s.now.Role == mvm.RoleGateway })
	pool, key := []string{"w", "x"}[w.rng.IntN(2)], w.userKey()
	if w.chance(30) {
		key = ""
	}
	spread := w.chance(20)
	if !ok {
		return
	}
	req := guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: gw.Tenant, PoolID: pool, Key: key, Spread: spread}}
	w.fromGuest(fmt.Sprintf("acquire %s/%s@%s", gw.Tenant, pool, key), gw.ID, req, acquired)
}

func acquired(r guestproto.HostResponse) error {
	switch {
	case r.AcquireResult == nil:
		return mvm.Errorf(mvm.KindInternal, "another answer")
	case !r.AcquireResult.Success:
		return mvm.Errorf(mvm.KindUnavailable, "%s", *r.AcquireResult.Detail)
	}
	return nil
}

// wakeFromGuest has some guest ask for some other's wake, rightly or not.
func (w *world) wakeFromGuest() {
	from, ok := w.instance(runs)
	of, ok2 := w.instance(nil)
	if !ok || !ok2 {
		return
	}
	right := from.Tenant == of.Tenant && from.Role == mvm.RoleGateway
	req := guestproto.HostRequest{WakeInstance: &guestproto.InstanceName{TenantID: from.Tenant, PoolID: of.Pool, InstanceID: of.ID}}
	w.fromGuest("wake "+of.ID+" by guest "+from.ID, from.ID, req, func(r guestproto.HostResponse) error {
		if r.WakeResult != nil && r.WakeResult.Success && !right {
			w.failLater("guest %s had %s woken, which is not its to wake", from.ID, of.ID)
		}
		if r.WakeResult == nil || !r.WakeResult.Success {
			return mvm.Errorf(mvm.KindUnavailable, "refused")
		}
		return nil
	})
}

func (w *world) secrets() {
	t := w.tenant()
	if w.chance(50) {
		w.ask("rotate secrets of "+t, func(ctx context.Context, l *life) error {
			_, err := l.a.RotateSecrets(ctx, t)
			return err
		}, nil)
		return
	}
	val := []byte(fmt.Sprint(w.rng.IntN(1000)))
	w.ask("set secrets of "+t, func(ctx context.Context, l *life) error {
		_, err := l.a.SetSecrets(ctx, t, map[string][]byte{"token": val})
		return err
	}, nil)
}

func (w *world) deploy() {
	d := mvm.Deployment{Tenant: mvm.TenantSpec{ID: w.tenant()}}
	for _, id := range []string{"gw", "w", "x"} {
		if w.chance(50) {
			d.Pools = append(d.Pools, w.poolSpec(id))
		}
	}
	for n, p := range d.Pools {
		if p.Role == mvm.RoleGateway {
			d.Pools[n].Routes = simRoutes(others(d.Pools)...) // a deployment's routes stay within it
		}
	}
	if w.chance(30) {
		d.Secrets = map[string][]byte{"token": []byte(fmt.Sprint(w.rng.IntN(10)))}
	}
	w.ask("deploy "+d.Tenant.ID, func(ctx context.Context, l *life) error {
		_, err := l.a.Apply(ctx, d, mvm.ApplyOptions{}, nil)
		return err
	}, nil)
}

// write has a guest write to its memory and disk.
func (w *world) write() {
	i, ok := w.instance(runs)
	text := fmt.Sprint(w.rng.IntN(1_000_000))
	if !ok {
		return
	}
	g, ok := w.host.Guest(i.ID)
	if !ok || g.State != fake.Running || !g.Gated {
		return
	}
	s := w.model.instances[i.ID]
	if s.boot != g.BootID {
		return
	}
	if w.chance(50) {
		if w.host.Write(i.ID, memFile, []byte(text)) == nil {
			s.mem = text
		}
	} else if w.host.Write(i.ID, diskFile, []byte(text)) == nil {
		s.disk = text
	}
	w.note("guest %s writes %s", i.ID, text)
}

func (w *world) killVMM() {
	i, ok := w.instance(nil)
	if !ok {
		return
	}
	if w.chance(60) {
		w.note("vmm of %s is killed: %t", i.ID, w.host.Crash(i.ID))
	} else {
		w.note("guest of %s powers off: %t", i.ID, w.host.Poweroff(i.ID))
	}
}

// behave has a guest behave otherwise.
func (w *world) behave() {
	i, ok := w.instance(nil)
	// No time is a round one: two things that end at the same instant have no order.
	kinds := []fake.Behavior{{}, {}, {}, {Boot: 3*time.Second + 17}, {ReadyAfter: 5*time.Second + 29}, {NeverReady: true}, {Active: 2},
		{Delay: time.Second + 41}, {Silent: true}, {Garbage: true}, {Oversized: true}, {Truncated: true}, {WrongType: true}, {Refuse: "no"},
		{Crash: true, Only: []string{"SleepPrep"}}, {Poweroff: true, Only: []string{"Configure"}}, {NoChannel: true},
		{NackConfigure: "no"}, {NackSleepPrep: "no"}, {NackWake: true}, {NackShutdown: "no"}, {FailedSaves: []string{"chat"}},
		{ClockError: time.Hour}, {ClockError: -50 * time.Millisecond}, {StaleSecrets: true}, {IgnorePowerdown: true, IgnoreShutdown: true},
		{DieOnPause: true}, {DieOnResume: true}, {Silent: true, Only: []string{"Configure"}}, {Delay: 5*time.Second + 53, Only: []string{"Status"}}}
	n := w.rng.IntN(len(kinds))
	if !ok {
		return
	}
	b := kinds[n]
	b.NextWake = w.nextWake()
	w.note("guest %s behaves %d, next wake %s", i.ID, n, b.NextWake.Format(time.TimeOnly))
	w.host.Behave(i.ID, b)
	w.model.behaved[i.ID] = true
}

func (w *world) setFaults() {
	f := faults{}
	if w.chance(70) {
		f = faults{fail: w.rng.IntN(40), slow: w.rng.IntN(150), full: w.rng.IntN(20), die: w.rng.IntN(6),
			slowest: time.Duration(1+w.rng.IntN(8)) * time.Second}
	}
	w.note("faults %+v", f)
	w.faults = f
}

// lack has the host lack something that every VMM needs, or lack nothing any more; and
// somebody wants a sleeper awake meanwhile.
func (w *world) lack() {
	all := []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EROFS, syscall.EIO}
	n := w.rng.IntN(2 * len(all))
	w.lacks = nil
	if n < len(all) {
		w.lacks = mvm.Errorf(mvm.KindInternal, "make VMM: %w", all[n])
	}
	w.note("the host lacks %v", w.lacks)
	if i, ok := w.instance(func(s *seen) bool { return s.now.State == mvm.StateSleeping }); ok {
		w.op(i.ID, mvm.OpWake, false)
	}
}

// needsHost are the driver's operations that a host which lacks something can't do.
var needsHost = []fake.Op{fake.OpInfo, fake.OpStart, fake.OpStartBoot, fake.OpRestore, fake.OpRestoreLoad, fake.OpResume, fake.OpRecover, fake.OpPaused}

func (w *world) killAgent() {
	if !w.life.dead.Load() && !w.life.is(&w.life.closed) {
		w.noteDeath("by kill -9")
		w.bury(w.life)
		if w.chance(30) {
			w.leave()
		}
	}
}

// leave puts there what an agent of another version could have left: a bridge, and
// folders under our names that no instance has.
func (w *world) leave() {
	w.note("a former agent has left something")
	w.net.Leave("br-tenant-4000")
	for _, dir := range []string{filepath.Join(w.dir, "instances", ".trash-i-000000ff"), filepath.Join(w.run, "i", "i-000000ff")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.fail("leave %s: %v", dir, err)
		}
	}
}

func (w *world) restartAgent() {
	if !w.life.dead.Load() && w.life.is(&w.life.opened) && !w.life.ending {
		w.life.ending = true
		w.end(w.life)
	}
}

// powerLoss: the host goes down with all that runs on it.
func (w *world) powerLoss() {
	w.note("power is lost")
	w.killAgent()
	for _, v := range w.host.VMMs() {
		w.host.Crash(v.ID)
	}
	for _, p := range w.s.points() {
		if p.what == atGuest {
			w.s.release(p, verdict{})
		}
	}
	synctest.Wait()
	w.host.Reboot()
	if err := os.RemoveAll(w.run); err != nil {
		w.fail("empty %s: %v", w.run, err)
	}
}

// leap lets much time pass at once, as a clock that is set or a host that was
// suspended.
func (w *world) leap() {
	d := time.Duration(1+w.rng.IntN(60)) * time.Second
	if w.chance(10) {
		d = time.Duration(1+w.rng.IntN(24)) * time.Hour / 4
	}
	w.note("the clock leaps by %s", d)
	time.Sleep(w.odd(d))
}
