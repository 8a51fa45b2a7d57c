package agent_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/network/fakenet"
	"mvm/internal/publish"
)

var errOnPurpose = errors.New("broken on purpose")

func (h *host) boot(id string) string {
	h.t.Helper()
	return h.exec(id, "cat", "/proc/sys/kernel/random/boot_id")
}

func (h *host) get(id string) mvm.Instance {
	h.t.Helper()
	i, err := h.a.Instance(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

func (h *host) try(id string, op mvm.OpKind) error {
	_, err := h.a.Operate(ctx(h.t), mvm.Address{Instance: id}, mvm.OpRequest{Op: op}, nil)
	return err
}

// TestHostFaultsKeepSnapshots: what is wrong with the host and not with the snapshot
// fails the wake, and the next one finds the memory as it was.
func TestHostFaultsKeepSnapshots(t *testing.T) {
	var infoFails atomic.Bool
	for what, fault := range map[string]func(h *host, on bool){
		"no TAP": func(h *host, on bool) {
			if on {
				h.net.Fail(fakenet.OpOpenTAP, errOnPurpose, -1)
			} else {
				h.net.Fail(fakenet.OpOpenTAP, nil, 0)
			}
		},
		"no driver info": func(_ *host, on bool) { infoFails.Store(on) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			h.opt.Fail = func(op fake.Op, _ string) error {
				if op == fake.OpInfo && infoFails.Load() {
					return errOnPurpose
				}
				return nil
			}
			h.start()
			i := h.instance()
			boot := h.boot(i.ID)
			h.do(i.ID, mvm.OpSleep)
			fault(h, true)
			if err := h.try(i.ID, mvm.OpWake); !errors.Is(err, errOnPurpose) {
				t.Errorf("wake: %v, want the host's fault", err)
			}
			if got := h.get(i.ID); got.State != mvm.StateSleeping || got.Snapshot == nil || got.Op != nil {
				t.Fatalf("%s with snapshot %v, op %v; want it asleep as before", got.State, got.Snapshot, got.Op)
			}
			fault(h, false)
			h.do(i.ID, mvm.OpWake)
			if h.boot(i.ID) != boot {
				t.Error("the guest was booted again: its memory is lost")
			}
		})
	}
}

// TestSetAsideCutOff: a snapshot that was set aside by an agent that died then is
// still there after the next one has done it again.
func TestSetAsideCutOff(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	snap := h.do(i.ID, mvm.OpSleep).Snapshot.ID
	h.stop()
	dir := filepath.Join(h.dir, "instances", i.ID)
	aside := filepath.Join(dir, "set-aside", snap)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "snapshots", snap, "map"), filepath.Join(aside, "map")); err != nil {
		t.Fatal(err)
	}
	h.start()
	if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "cold" {
		t.Errorf("woke by %q, want cold", got.Last.Kind)
	}
	for _, name := range []string{"map", "device"} {
		if _, err := os.Stat(filepath.Join(aside, name)); err != nil {
			t.Errorf("the only copy is gone: %v", err)
		}
	}
}

// TestBrokenInstanceKeepsNobodyFromService: what can't be taken up after a restart
// keeps neither the agent nor other instances from going on.
func TestBrokenInstanceKeepsNobodyFromService(t *testing.T) {
	h := newHost(t)
	h.start()
	well := h.instance()
	broken, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
	if err != nil {
		t.Fatal(err)
	}
	h.do(broken.ID, mvm.OpStart) // of one that has nothing on the host, nothing is asked
	h.stop()
	h.opt.Fail = func(op fake.Op, id string) error {
		if (op == fake.OpRecover || op == fake.OpDestroy) && id == broken.ID {
			return errOnPurpose
		}
		return nil
	}
	if err := os.RemoveAll(filepath.Join(h.dir, "images")); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.exec(well.ID, "true")
	if got := h.get(broken.ID); got.Problem == "" {
		t.Error("the record does not say what is wrong")
	}
}

// TestStartAfterHalfAStop: a stop that failed half-way is finished before a start.
func TestStartAfterHalfAStop(t *testing.T) {
	h := newHost(t)
	var fails atomic.Bool
	h.opt.Fail = func(op fake.Op, _ string) error {
		if op == fake.OpDestroy && fails.Load() {
			return errOnPurpose
		}
		return nil
	}
	h.start()
	i := h.instance()
	fails.Store(true)
	if err := h.try(i.ID, mvm.OpStop); err == nil {
		t.Fatal("stop: no error")
	}
	fails.Store(false)
	if got := h.do(i.ID, mvm.OpWake); got.State != mvm.StateRunning || got.Op != nil {
		t.Errorf("%s with op %v, want running", got.State, got.Op)
	}
	h.exec(i.ID, "true")
}

// TestReadinessSurvivesRestarts: an instance whose services were not ready yet when
// the agent ended is found ready by the next one.
func TestReadinessSurvivesRestarts(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.do(i.ID, mvm.OpStop)
	h.host.Behave(i.ID, fake.Behavior{NeverReady: true})
	started := make(chan error, 1)
	go func() { started <- h.try(i.ID, mvm.OpStart) }()
	waitUntil(t, func() bool { return h.get(i.ID).State == mvm.StateRunning })
	h.stop()
	if err := <-started; err == nil {
		t.Error("start: no error, though its services never were ready")
	}
	h.start()
	h.host.Behave(i.ID, fake.Behavior{})
	waitUntil(t, func() bool { return h.get(i.ID).Ready })
}

// TestWarmQuotaWithOpsUnderWay: what is on its way to warm counts as warm.
func TestWarmQuotaWithOpsUnderWay(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.instance()
	quota := mvm.DefaultQuota()
	quota.MaxWarm = 1
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
		t.Fatal(err)
	}
	second, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
	if err != nil {
		t.Fatal(err)
	}
	h.do(second.ID, mvm.OpStart)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	h.onSeam(func(p string) error {
		if p == "warm.fence:before" && once.CompareAndSwap(false, true) {
			close(reached)
			<-goOn
		}
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- h.try(first.ID, mvm.OpWarm) }()
	<-reached
	if err := h.try(second.ID, mvm.OpWarm); !mvm.IsKind(err, mvm.KindQuota) {
		t.Errorf("second warm: %v, want refused by the quota", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("first warm: %v", err)
	}
	if got := h.get(second.ID); got.State != mvm.StateRunning || got.Op != nil {
		t.Errorf("refused one is %s with op %v, want running", got.State, got.Op)
	}
}

// TestDestroyCallsOffAll: a destroy does not wait for a start that hangs.
func TestDestroyCallsOffAll(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.do(i.ID, mvm.OpStop)
	h.host.Behave(i.ID, fake.Behavior{NoChannel: true})
	started := make(chan error, 1)
	go func() { started <- h.try(i.ID, mvm.OpStart) }()
	waitUntil(t, func() bool { _, op := h.a.Queued(i.ID); return op == mvm.OpStart })
	slept := make(chan error, 1)
	go func() { slept <- h.try(i.ID, mvm.OpSleep) }()
	waitUntil(t, func() bool { n, _ := h.a.Queued(i.ID); return n == 2 })
	h.do(i.ID, mvm.OpDestroy)
	if err := errors.Join(<-started, <-slept); err == nil || mvm.IsKind(err, mvm.KindTimeout) || !strings.Contains(err.Error(), "given up for destroy") {
		t.Errorf("start and sleep: %v, want both given up for destroy", err)
	}
}

// takenPort is a publisher whose port somebody else has, for so many calls.
type takenPort struct {
	noPublisher
	left atomic.Int32
}

func (p *takenPort) Apply(b []publish.Binding) ([]publish.Outcome, error) {
	out, err := p.noPublisher.Apply(b)
	if len(b) > 0 && p.left.Add(-1) >= 0 {
		for n := range out {
			out[n] = publish.Outcome{Err: errOnPurpose}
		}
	}
	return out, err
}

// TestPortsArePublishedLater: a port that somebody else has is reported, and
// published once it is free.
func TestPortsArePublishedLater(t *testing.T) {
	h := newHost(t)
	pub := &takenPort{}
	pub.left.Store(1)
	h.pub = pub
	h.start()
	if _, err := h.a.CreateTenant(ctx(t), mvm.TenantSpec{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	spec := worker("gateways")
	spec.Role, spec.Publish = mvm.RoleGateway, []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:8080"), Guest: 80}}
	if _, err := h.a.CreatePool(ctx(t), "acme", spec); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), errOnPurpose.Error()) {
		t.Fatalf("create pool: %v, want that its port is taken", err)
	}
	reported := func() bool {
		found, err := h.a.Doctor(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(found, func(f mvm.Finding) bool { return f.Where == "acme/gateways" && strings.Contains(f.What, "8080") })
	}
	if !reported() {
		t.Error("doctor does not say that the port is not published")
	}
	waitUntil(t, func() bool {
		p, err := h.a.Pool(ctx(t), "acme", "gateways")
		return err == nil && len(p.Bound) == 1 && p.Bound[0].IsValid()
	})
	if reported() {
		t.Error("doctor says that the port is not published, and it is")
	}
}

// TestChangesReachGuestsInTheEnd: what a guest did not take, or what changed while it
// was configured, is given to it later, whatever became of the agent meanwhile.
func TestChangesReachGuestsInTheEnd(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	set := func(v string) error {
		_, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte(v)})
		return err
	}
	has := func(want string) func() bool {
		return func() bool { return h.exec(i.ID, "cat", "/run/secrets/token") == want }
	}
	if err := set("one"); err != nil {
		t.Fatal(err)
	}
	h.host.Behave(i.ID, fake.Behavior{NackConfigure: "not now"})
	if err := set("two"); err == nil {
		t.Error("set secrets: no error, though the guest did not take them")
	}
	h.host.Behave(i.ID, fake.Behavior{})
	waitUntil(t, has("two"))

	h.host.Behave(i.ID, fake.Behavior{NackConfigure: "not now"})
	if err := set("three"); err == nil {
		t.Error("set secrets: no error, though the guest did not take them")
	}
	h.stop()
	h.host.Behave(i.ID, fake.Behavior{})
	h.start()
	waitUntil(t, has("three"))
}

// TestPoolChangesDuringTheGate: what changes of the pool after the gate has read it
// reaches the guest all the same.
func TestPoolChangesDuringTheGate(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte("one")}); err != nil {
		t.Fatal(err)
	}
	h.do(i.ID, mvm.OpSleep)
	spec := worker("workers")
	spec.SecretScopes = []mvm.SecretScope{{Integration: "telegram", Keys: []string{"token"}}}
	changed := false
	h.onSeam(func(p string) error {
		if p == "wake.gate:after" && !changed {
			changed = true
			_, err := h.a.UpdatePool(ctx(t), "acme", "workers", mvm.PoolUpdate{Spec: &spec})
			return err
		}
		return nil
	})
	h.do(i.ID, mvm.OpWake)
	if got := h.exec(i.ID, "cat", "/run/secrets/telegram/token"); got != "one" {
		t.Errorf("guest has %q, want the secret where the pool says now", got)
	}
}

// TestSnapshotsAreAudited: the log tells what became of every snapshot.
func TestSnapshotsAreAudited(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	for _, op := range []mvm.OpKind{mvm.OpSleep, mvm.OpWake, mvm.OpSleep, mvm.OpStop} {
		h.do(i.ID, op)
	}
	var got []mvm.Action
	for _, a := range h.actions("acme") {
		if strings.HasPrefix(string(a), "Snapshot") {
			got = append(got, a)
		}
	}
	want := []mvm.Action{mvm.SnapshotCreated, mvm.SnapshotRestored, mvm.SnapshotCreated, mvm.SnapshotDeleted}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// TestVMMThatStaysIsOnRecord: where an instance can't come up and its VMM can't be ended,
// the operation stays on record, and with it what the VMM holds of the quota, until the
// VMM is gone; nobody moves the memory that it runs on. Another try changes nothing of
// it, and neither does a restart of the agent.
func TestVMMThatStaysIsOnRecord(t *testing.T) {
	for _, c := range []struct {
		down mvm.OpKind
		from mvm.State
		up   mvm.OpKind
	}{{mvm.OpSleep, mvm.StateSleeping, mvm.OpWake}, {mvm.OpStop, mvm.StateStopped, mvm.OpStart}} {
		t.Run(string(c.up), func(t *testing.T) {
			var stays atomic.Bool
			h := newHost(t)
			h.opt.Fail = func(op fake.Op, _ string) error {
				if stays.Load() && (op == fake.OpKill || op == fake.OpDestroy) {
					return errOnPurpose
				}
				return nil
			}
			h.start()
			i := h.instance()
			h.do(i.ID, c.down)
			stays.Store(true)
			h.host.Behave(i.ID, fake.Behavior{NackConfigure: "no", NackWake: true})
			for _, when := range []string{"first", "again", "after a restart"} {
				if err := h.try(i.ID, c.up); !errors.Is(err, errOnPurpose) {
					t.Errorf("%s: %v, want that its VMM can't be ended", when, err)
				}
				h.wantStays(when, i.ID, c.from, c.up)
				if when == "again" {
					h.stop()
					h.start()
				}
			}
			h.host.Behave(i.ID, fake.Behavior{})
			stays.Store(false)
			waitUntil(t, func() bool { return h.try(i.ID, c.up) == nil })
			if got := h.get(i.ID); got.State != mvm.StateRunning || got.Op != nil || got.Problem != "" {
				t.Errorf("it is %s with op %+v and problem %q, want running", got.State, got.Op, got.Problem)
			}
		})
	}
}

// wantStays wants the instance's VMM to be there, with the operation that made it on record.
func (h *host) wantStays(when, id string, from mvm.State, op mvm.OpKind) {
	h.t.Helper()
	if got := h.get(id); got.State != from || got.Op == nil || got.Op.Kind != op {
		h.t.Errorf("%s: it is %s with op %+v, want %s with %s on record", when, got.State, got.Op, from, op)
	}
	if n := len(h.host.VMMs()); n != 1 {
		h.t.Errorf("%s: %d VMMs, want the one that stays", when, n)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "instances", id, "memory")); from == mvm.StateSleeping && err != nil {
		h.t.Errorf("%s: the memory of a VMM that runs: %v", when, err)
	}
}
