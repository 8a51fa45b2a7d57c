package sim_test

import (
	"cmp"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// check looks at the host after a step, with everybody standing still.
func (w *world) check() {
	if w.failed() != "" {
		return
	}
	if v := w.host.Violations(); len(v) > 0 {
		w.fail("the driver's contract was broken: %s", v[0])
		return
	}
	l := w.life
	if w.dirty.Load() && !l.dead.Load() && !l.is(&l.closed) {
		w.dirty.Store(false)
		w.look(l.st)
	}
	w.checkUsage()
	w.checkOpen()
}

// state is the store's content.
type state struct {
	tenants   []mvm.Tenant
	pools     []mvm.Pool
	instances []mvm.Instance
	events    []mvm.Event // since the last look
}

// read reads the store, beside everybody else.
func (w *world) read(st *store.Store, after uint64) (s state) {
	w.s.alone(func() {
		err := st.View(func(tx *store.Tx) (err error) {
			if s.tenants, err = tx.Tenants(); err != nil {
				return err
			}
			if s.pools, err = tx.Pools(""); err != nil {
				return err
			}
			if s.instances, err = tx.Instances("", ""); err != nil {
				return err
			}
			s.events, _, err = tx.Events(after, mvm.EventFilter{}, 0)
			return err
		})
		if err != nil {
			w.fail("read store: %v", err)
		}
	})
	return s
}

// look compares the store with what it was at the last look.
func (w *world) look(st *store.Store) {
	s := w.read(st, w.model.lastSeq)
	w.checkEvents(s.events)
	w.checkTenants(s)
	was := w.model.instances
	w.model.instances = map[string]*seen{}
	for _, i := range s.instances {
		old := was[i.ID]
		if old == nil {
			old = &seen{now: i, rest: i, since: map[mvm.Action]bool{}, bootSince: map[mvm.Action]bool{}}
			w.checkNew(i)
		}
		w.model.instances[i.ID] = old
	}
	for _, e := range s.events {
		if old := w.model.instances[e.Instance]; old != nil {
			old.since[e.Action], old.bootSince[e.Action] = true, true
		}
	}
	for _, i := range s.instances {
		w.checkStep(w.model.instances[i.ID], i)
	}
	for id, old := range was {
		if w.model.instances[id] == nil && !w.model.isDoomed(old.now) {
			w.fail("instance %s is lost: it was %s, and nobody asked for its destruction", id, old.now.State)
		}
	}
	w.checkCounts(s)
	w.model.once = slices.DeleteFunc(w.model.once, (*held).settled)
	for _, t := range s.tenants {
		w.setFloors(t, w.model.quotas[t.ID] != t.Quota)
		w.model.quotas[t.ID] = t.Quota
	}
}

// checkEvents: the audit log only grows, without a gap.
func (w *world) checkEvents(events []mvm.Event) {
	for _, e := range events {
		if e.Seq != w.model.lastSeq+1 {
			w.fail("the audit log goes on with %d after %d", e.Seq, w.model.lastSeq)
			return
		}
		w.model.lastSeq = e.Seq
		w.checkMemory(e)
		w.checkTimer(e)
		w.note("event %d %s %s by %s", e.Seq, e.Action, cmp.Or(e.Instance, e.Tenant+"/"+e.Pool), e.By)
	}
}

// checkMemory: memory is never given up for a fault of the host. Nothing damages a
// snapshot here, so none is set aside; one that was used already is given up for its
// guest's sake, and not because the host lacked something. So is that of a VMM that died when
// its guest was let go: it may have run.
func (w *world) checkMemory(e mvm.Event) {
	if e.Action == mvm.SnapshotSetAside {
		w.fail("the snapshot of %s was set aside, and nothing is wrong with it: %s", e.Instance, e.Why)
	}
	cause, _, _ := strings.Cut(e.Why, "\n") // on further lines is what failed while it was cleaned up
	if errno, lacks := sys.FaultIn(cause); lacks && e.Action == mvm.SnapshotDeleted && !strings.HasSuffix(cause, "the VMM died") {
		w.fail("the memory of %s was given up, for the host's %v: %s", e.Instance, errno, e.Why)
	}
}

func (w *world) checkTenants(s state) {
	was := w.model.tenants
	w.model.tenants = map[string]mvm.Tenant{}
	for _, t := range s.tenants {
		w.model.tenants[t.ID] = t
		w.checkDestroying(t.Destroying, t.ID, w.model.isPruned(t.ID, ""))
		if old, ok := was[t.ID]; ok && old.Created.Equal(t.Created) && t.SecretsGeneration < old.SecretsGeneration {
			w.fail("tenant %s: secrets generation %d after %d", t.ID, t.SecretsGeneration, old.SecretsGeneration)
		}
	}
	for id := range was {
		if _, ok := w.model.tenants[id]; !ok && !w.model.doomed[id] {
			w.fail("tenant %s is lost", id)
		}
	}
	pools := w.model.pools
	w.model.pools = map[string]mvm.Pool{}
	for _, p := range s.pools {
		w.model.pools[p.Address().String()] = p
		w.checkDestroying(p.Destroying, p.Address().String(), w.model.doomed[p.Tenant] || w.model.isPruned(p.Tenant, p.Spec.ID))
	}
	for addr, p := range pools {
		if _, ok := w.model.pools[addr]; !ok && !w.model.doomed[addr] && !w.model.doomed[p.Tenant] {
			w.fail("pool %s is lost", addr)
		}
	}
	for id := range was { // what is gone may be made again
		if _, ok := w.model.tenants[id]; !ok {
			w.undoom(id)
		}
	}
	for addr := range pools {
		if _, ok := w.model.pools[addr]; !ok {
			w.undoom(addr)
		}
	}
}

// undoom forgets that what is gone was to be destroyed, unless somebody still waits to
// destroy it: what is made anew meanwhile goes too.
func (w *world) undoom(addr string) {
	for _, c := range w.cmds {
		if c.dooms == addr {
			return
		}
	}
	delete(w.model.doomed, addr)
}

// checkDestroying: what is being destroyed is so because somebody asked for it, or a
// desired state does not name it.
func (w *world) checkDestroying(destroying bool, addr string, pruned bool) {
	switch {
	case !destroying || w.model.doomed[addr]:
	case !pruned:
		w.fail("%s is being destroyed, and nobody asked for it", addr)
	default:
		w.note("%s is pruned", addr)
		w.model.doomed[addr] = true
	}
}

func (w *world) checkNew(i mvm.Instance) {
	if i.State != mvm.StateCreated {
		w.fail("instance %s begins as %s", i.ID, i.State)
	}
	for _, o := range w.model.instances {
		if o.now.Tenant == i.Tenant && o.now.ID != i.ID && (o.now.Offset == i.Offset || o.now.UID == i.UID) {
			w.fail("instances %s and %s share an address or user", i.ID, o.now.ID)
		}
	}
}

// tells says which actions of the audit log account for a change of state.
var tells = map[[2]mvm.State][]mvm.Action{
	{mvm.StateReady, mvm.StateRunning}:    {mvm.InstanceStarted},
	{mvm.StateCreated, mvm.StateRunning}:  {mvm.InstanceStarted},
	{mvm.StateStopped, mvm.StateRunning}:  {mvm.InstanceStarted},
	{mvm.StateSleeping, mvm.StateRunning}: {mvm.InstanceWoken, mvm.InstanceStarted, mvm.InstanceResumed},
	{mvm.StateWarm, mvm.StateRunning}:     {mvm.InstanceResumed},
	{mvm.StateRunning, mvm.StateWarm}:     {mvm.InstanceWarmed},
	{mvm.StateRunning, mvm.StateSleeping}: {mvm.InstanceSlept},
	{mvm.StateWarm, mvm.StateSleeping}:    {mvm.InstanceSlept},
	{mvm.StateRunning, mvm.StateStopped}:  {mvm.InstanceStopped},
	{mvm.StateWarm, mvm.StateStopped}:     {mvm.InstanceStopped},
	{mvm.StateSleeping, mvm.StateStopped}: {mvm.InstanceStopped, mvm.SnapshotDeleted, mvm.SnapshotSetAside},
	{mvm.StateStopped, mvm.StateSleeping}: {mvm.SnapshotBroughtBack},
}

// checkStep compares an instance with what it was.
func (w *world) checkStep(was *seen, i mvm.Instance) {
	from, to := was.now.State, i.State
	if from != to {
		w.note("%s: %s -> %s", i.ID, from, to)
		if !from.CanBecome(to) {
			w.fail("instance %s went from %s to %s", i.ID, from, to)
		}
	}
	if i.DiskGeneration < was.now.DiskGeneration || i.Tenant != was.now.Tenant || i.Pool != was.now.Pool ||
		i.Offset != was.now.Offset || i.UID != was.now.UID || was.now.Key != "" && i.Key != was.now.Key {
		w.fail("instance %s changed what never changes: %+v, now %+v", i.ID, was.now, i)
	}
	if to == mvm.StateSleeping && i.Snapshot == nil {
		w.fail("instance %s sleeps without a snapshot", i.ID)
	}
	w.checkMinimum(was.now, i)
	was.now = i
	if i.Op != nil {
		return
	}
	if acts := tells[[2]mvm.State{was.rest.State, to}]; was.rest.State != to && acts != nil &&
		!slices.ContainsFunc(acts, func(a mvm.Action) bool { return was.since[a] }) {
		w.fail("instance %s went from %s to %s, and the audit log has none of %v", i.ID, was.rest.State, to, acts)
	}
	was.rest = i
	clear(was.since)
}

// checkCounts: the limits on what there is.
func (w *world) checkCounts(s state) {
	perPool, disk, pools := map[string]int{}, map[string]int{}, map[string]int{}
	for _, p := range s.pools {
		pools[p.Tenant]++
	}
	for _, i := range s.instances {
		perPool[i.Tenant+"/"+i.Pool]++
		disk[i.Tenant] += i.Res.DataDiskMiB
	}
	for _, t := range s.tenants {
		w.grew(t, "pools", pools[t.ID], t.Quota.MaxPools)
		w.grew(t, "disk", disk[t.ID], t.Quota.MaxDiskGiB<<10)
		for _, p := range s.pools {
			if p.Tenant == t.ID {
				w.grew(t, "instances of "+p.Spec.ID, perPool[p.Address().String()], t.Quota.MaxInstancesPerPool)
			}
		}
	}
}

// usage is what the VMMs of a tenant use on the host.
type usage struct{ running, vcpus, mem int }

// checkUsage: what VMMs use on the host, whatever the store says.
func (w *world) checkUsage() {
	use := map[string]usage{}
	warm := map[string]int{}
	for _, v := range w.host.VMMs() {
		s := w.model.instances[v.ID]
		if s == nil {
			w.fail("the VMM of %s has no record", v.ID)
			return
		}
		i := s.now
		u := use[i.Tenant]
		u.vcpus += i.Res.VCPUs
		u.mem += v.MemMiB
		switch {
		case v.State == fake.Running && !drains(i):
			u.running++
		case v.State == fake.Paused && i.State == mvm.StateWarm:
			warm[i.Tenant]++
		}
		use[i.Tenant] = u
	}
	for id, t := range w.model.tenants {
		u := use[id]
		w.within(t, "vcpus", u.vcpus, t.Quota.MaxVCPUs)
		w.within(t, "mem", u.mem, t.Quota.MaxMemMiB)
		w.within(t, "running", u.running, t.Quota.MaxRunning)
		w.within(t, "warm", warm[id], t.Quota.MaxWarm)
	}
}

// within fails when VMMs use more than the limit, or than was admitted before the
// limit was lowered.
func (w *world) within(t mvm.Tenant, what string, n, limit int) {
	if most := max(limit, w.model.floors[t.ID+" "+what]); n > most {
		w.fail("quota of tenant %s: %d %s, and the limit is %d", t.ID, n, what, most)
	}
}

// setFloors notes what is admitted of a tenant whose quota was changed, and forgets it
// as that becomes less.
func (w *world) setFloors(t mvm.Tenant, changed bool) {
	var running, warm, vcpus, mem int
	for _, s := range w.model.instances {
		i := s.now
		if i.Tenant != t.ID {
			continue
		}
		op := mvm.OpKind("")
		if i.Op != nil {
			op = i.Op.Kind
		}
		rising := op == mvm.OpStart || op == mvm.OpWake || op == mvm.OpResume
		if i.State.HoldsMemory() || rising || op == mvm.OpSleep {
			vcpus, mem = vcpus+i.Res.VCPUs, mem+i.Res.MemMiB
		}
		if i.State == mvm.StateRunning || rising {
			running++
		}
		if i.State == mvm.StateWarm || op == mvm.OpWarm {
			warm++
		}
	}
	for what, n := range map[string]int{"running": running, "warm": warm, "vcpus": vcpus, "mem": mem} {
		key := t.ID + " " + what
		if changed {
			w.model.floors[key] = n
		}
		w.model.floors[key] = min(w.model.floors[key], n)
	}
}

// drains: a warm instance runs for the last time, to be put to sleep or shut down. It
// takes no traffic and holds its vCPUs and memory as before.
func drains(i mvm.Instance) bool {
	return i.State == mvm.StateWarm && i.Op != nil && (i.Op.Kind == mvm.OpSleep || i.Op.Kind == mvm.OpStop || i.Op.Kind == mvm.OpDestroy)
}

// grew fails when something is above its limit and more than it was: a limit may have
// been lowered below what there is.
func (w *world) grew(t mvm.Tenant, what string, n, limit int) {
	key := t.ID + " " + what
	if was := w.model.counts[key]; n > limit && n > was {
		w.fail("quota of tenant %s: %d %s, and the limit is %d", t.ID, n, what, limit)
	}
	w.model.counts[key] = n
}

// checkOpen: an instance that takes traffic has a guest that went through the gate,
// and it is the guest that it was.
func (w *world) checkOpen() {
	if w.life.dead.Load() || !w.life.is(&w.life.opened) {
		return
	}
	for id, s := range w.model.instances {
		if s.now.State != mvm.StateRunning || s.now.Op != nil {
			continue
		}
		g, ok := w.host.Guest(id)
		if !ok || g.State != fake.Running {
			continue // it died, and its end is under way
		}
		if !g.Gated {
			w.fail("instance %s takes traffic, and its guest is not through the gate", id)
		}
		if s.boot != "" && s.boot != g.BootID && !s.bootSince[mvm.InstanceStarted] {
			w.fail("instance %s lost its memory, and nothing tells of a cold boot", id)
		}
		if s.boot != g.BootID {
			s.mem = ""
		}
		s.boot = g.BootID
		clear(s.bootSince)
		if b, _ := w.host.Read(id, memFile); string(b) != s.mem {
			w.fail("instance %s lost what it wrote to memory: %q, want %q", id, b, s.mem)
		}
		if b, _ := w.host.Read(id, diskFile); string(b) != s.disk {
			w.fail("instance %s lost what it wrote to its disk: %q, want %q", id, b, s.disk)
		}
	}
}

// What guests write, and where.
const (
	memFile  = "/tmp/written"
	diskFile = "/data/written"
)
