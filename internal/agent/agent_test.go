package agent_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/builds"
	"mvm/internal/declare"
	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/image"
	"mvm/internal/image/fakeimage"
	"mvm/internal/ingress"
	"mvm/internal/network/fakenet"
	"mvm/internal/policy"
	"mvm/internal/publish"
	"mvm/internal/ready"
	"mvm/internal/schedule"
	"mvm/internal/secrets"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/testenv/quick"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a machine with everything in memory, on which agents come and go.
type host struct {
	t    *testing.T
	dir  string
	run  string
	host *fake.Host
	opt  fake.Options
	net  *fakenet.Network
	key  *secrets.Key
	img  *fakeimage.Builder
	pub  ingress.Publisher
	// every is how often the agent reconciles; by itself it does nothing in most tests.
	every  time.Duration
	listen func(*sys.Folder, string) (net.Listener, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)

	trust  declare.Trust
	nodeID string
	dns    func() []netip.Addr
	file   string // the desired state that the host follows

	// Of agents that run on a virtual clock; nil: the host's own.
	memory    func() (policy.Memory, error)
	limits    policy.MemoryLimits
	keptReady ready.Limits // zero: nothing is kept ready
	notes     int          // that guests wrote to their memory
	clock     schedule.Clock
	ready     time.Duration // within which services are; zero: 10 s

	mu   sync.Mutex
	seam func(point string) error
	fail func(op fake.Op, id string) error
	a    *agent.Agent
	st   *store.Store
	log  logBuffer

	metrics counter
	rand    io.Reader // where ids come from; nil: crypto/rand
	aside   agent.SetAsideLimits
	builds  builds.Limits
	images  image.Limits // zero: the defaults
	// storeSeam, where set, is the store's.
	storeSeam func(op string) error
}

func newHost(t *testing.T) *host {
	t.Helper()
	key, err := secrets.NewKey([]byte(strings.Repeat("k", secrets.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: quick.Dir(t), run: quick.Dir(t), host: fake.NewHost(), net: fakenet.New(), key: key, img: fakeimage.New("builtin:"),
		pub: noPublisher{}, every: -1}
	t.Cleanup(h.host.Close)
	t.Cleanup(h.stop)
	t.Cleanup(func() {
		for _, v := range h.host.Violations() {
			t.Errorf("driver contract violated: %s", v)
		}
	})
	return h
}

// start starts an agent on the host, as after a boot or a crash of the one before.
func (h *host) start() *agent.Agent {
	h.t.Helper()
	st, err := store.OpenWith(filepath.Join(h.dir, "state.db"), store.Options{Seam: h.storeSeam})
	if err != nil {
		h.t.Fatal(err)
	}
	images, err := image.OpenWith(filepath.Join(h.dir, "images"), []image.Builder{h.img}, cmp.Or(h.images, image.DefaultLimits()), slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	h.st = st
	if h.opt.Fail == nil {
		h.opt.Fail = h.failNow
	}
	h.a = agent.New(agent.Options{DataDir: h.dir, RunDir: h.run, Version: "test", Store: st, Driver: fake.New(h.host, h.opt),
		Network: h.net, Images: images, Sealer: h.key, Publisher: h.pub, Log: h.logger(), Metrics: &h.metrics, KeepLogs: true,
		Seam: func(p, _ string) error { return h.point(p) }, MakeDisk: makeDisk, Reconcile: h.every, ListenHost: h.listen, DialGuest: h.dial,
		Trust: h.trust, NodeID: h.nodeID, DesiredFile: h.file, HostMemory: h.memory, Clock: h.clock, MemoryLimits: h.limits, Ready: h.keptReady, SetAside: h.aside, Builds: h.builds, Resolvers: h.dns, Rand: h.rand,
		Timeouts: agent.Timeouts{Boot: 10 * time.Second, Ready: cmp.Or(h.ready, 10*time.Second), Gate: 2 * time.Second, Call: 2 * time.Second}})
	if err := h.a.Open(context.Background()); err != nil {
		h.t.Fatalf("open agent: %v", err)
	}
	return h.a
}

func (h *host) stop() {
	if h.a == nil {
		return
	}
	if err := h.a.Close(); err != nil {
		h.t.Errorf("close agent: %v", err)
	}
	if err := h.st.Close(); err != nil {
		h.t.Errorf("close store: %v", err)
	}
	h.a = nil
}

func (h *host) point(p string) error {
	h.mu.Lock()
	seam := h.seam
	h.mu.Unlock()
	if seam == nil {
		return nil
	}
	return seam(p)
}

func (h *host) onSeam(fn func(string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seam = fn
}

// failing has operations of the driver fail as fn says, from now on. It needs an agent
// that was started without Fail among its options.
func (h *host) failing(fn func(op fake.Op, id string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = fn
}

func (h *host) failNow(op fake.Op, id string) error {
	h.mu.Lock()
	fn := h.fail
	h.mu.Unlock()
	if fn == nil {
		return nil
	}
	return fn(op, id)
}

func makeDisk(_ context.Context, f *os.File, _ int) error {
	_, err := f.WriteString("disk")
	return err
}

// noPublisher serves nothing.
type noPublisher struct{}

func (noPublisher) Apply(b []publish.Binding) ([]publish.Outcome, error) {
	out := make([]publish.Outcome, len(b))
	for n := range b {
		out[n].Addr = b[n].Publish.Host
	}
	return out, nil
}

func (noPublisher) Close() error { return nil }

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return mvm.WithAsker(c, mvm.Asker{Kind: mvm.AskerUnknown, ID: "test"})
}

func worker(id string) mvm.PoolSpec {
	return mvm.PoolSpec{ID: id, Role: mvm.RoleWorker, Profile: "minimal", Flake: "builtin:minimal",
		Resources: mvm.Resources{VCPUs: 1, MemMiB: 128, DataDiskMiB: 16}, Policy: mvm.RuntimePolicy{DrainTimeoutSeconds: 1, GracefulShutdownSeconds: 1}}
}

// instance makes tenant acme with a pool of workers and one running instance.
func (h *host) instance() mvm.Instance {
	h.t.Helper()
	c := ctx(h.t)
	if _, err := h.a.CreateTenant(c, mvm.TenantSpec{ID: "acme"}); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.a.CreatePool(c, "acme", worker("workers")); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.a.BuildPool(c, "acme", "workers", nil); err != nil {
		h.t.Fatal(err)
	}
	i, err := h.a.CreateInstance(c, "acme", "workers", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(i.ID, mvm.OpStart)
}

// do operates on the instance and wants it to work.
func (h *host) do(id string, op mvm.OpKind) mvm.Instance {
	h.t.Helper()
	i, err := h.a.Operate(ctx(h.t), mvm.Address{Instance: id}, mvm.OpRequest{Op: op}, nil)
	if err != nil {
		h.t.Fatalf("%s: %v", op, err)
	}
	return i
}

// exec runs a command in the guest and returns what it wrote.
func (h *host) exec(id string, argv ...string) string {
	h.t.Helper()
	var out strings.Builder
	code, err := h.a.Exec(ctx(h.t), mvm.Address{Instance: id}, mvm.ExecSpec{Argv: argv}, mvm.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		h.t.Fatalf("exec %q: code %d, %v, %s", argv, code, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func TestLifeOfAnInstance(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	want := func(got mvm.Instance, st mvm.State) {
		t.Helper()
		if got.State != st || got.Op != nil {
			t.Fatalf("state %s, op %v; want %s and none", got.State, got.Op, st)
		}
	}
	want(i, mvm.StateRunning)
	boot := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id")
	for _, s := range []struct {
		op mvm.OpKind
		to mvm.State
	}{{mvm.OpSleep, mvm.StateSleeping}, {mvm.OpWake, mvm.StateRunning}, {mvm.OpWarm, mvm.StateWarm}, {mvm.OpResume, mvm.StateRunning},
		{mvm.OpWarm, mvm.StateWarm}, {mvm.OpSleep, mvm.StateSleeping}, {mvm.OpStart, mvm.StateRunning}} {
		want(h.do(i.ID, s.op), s.to)
		if n := len(h.host.VMMs()); s.to.HoldsMemory() != (n == 1) {
			t.Errorf("after %s: %d VMMs", s.op, n)
		}
	}
	if got := h.exec(i.ID, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id %s after wakes, want %s: it was booted again", got, boot)
	}
	want(h.do(i.ID, mvm.OpStop), mvm.StateStopped)
	want(h.do(i.ID, mvm.OpStart), mvm.StateRunning)
	want(h.do(i.ID, mvm.OpDestroy), mvm.StateDestroyed)
	if _, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID}); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("instance after destroy: %v, want not found", err)
	}
	h.wantNothing()
}

// wantNothing checks that no instance has left anything.
func (h *host) wantNothing() {
	h.t.Helper()
	for _, dir := range []string{filepath.Join(h.dir, "instances"), filepath.Join(h.run, "i")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, e := range entries {
			h.t.Errorf("left behind: %s/%s", dir, e.Name())
		}
	}
	if v := h.host.VMMs(); len(v) > 0 {
		h.t.Errorf("left behind: VMMs %v", v)
	}
}

func TestWakeArrivesBeforeCommit(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.onSeam(func(p string) error {
		if p == "sleep.pause:after" {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	})
	slept := make(chan error, 1)
	go func() {
		_, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpSleep}, nil)
		slept <- err
	}()
	<-reached
	woke := make(chan error, 1)
	go func() {
		_, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil)
		woke <- err
	}()
	waitUntil(t, func() bool { n, _ := h.a.Queued(i.ID); return n == 2 })
	close(goOn)
	if err := <-slept; err == nil {
		t.Error("sleep: no error, want that a wake called it off")
	}
	if err := <-woke; err != nil {
		t.Errorf("wake: %v", err)
	}
	got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
	if err != nil || got.State != mvm.StateRunning || got.Op != nil || got.Snapshot != nil {
		t.Errorf("instance %+v, %v; want it running without snapshot", got, err)
	}
	h.exec(i.ID, "true")
}

func waitUntil(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition did not come true")
		}
	}
}

func TestConcurrentWakesAreOne(t *testing.T) {
	h := newHost(t)
	restores := 0
	h.opt.Fail = func(op fake.Op, _ string) error {
		if op == fake.OpRestore {
			restores++
		}
		return nil
	}
	h.start()
	i := h.instance()
	h.do(i.ID, mvm.OpSleep)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { h.do(i.ID, mvm.OpWake) })
	}
	wg.Wait()
	if restores != 1 {
		t.Errorf("%d restores, want 1", restores)
	}
}

// errBadSnapshot is what a driver says of a snapshot that it can't restore.
var errBadSnapshot = &driver.SnapshotError{Err: errors.New("broken on purpose")}

func TestFailedRestores(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails int
		op    fake.Op
		kind  string
		err   error
	}{
		{"once", 1, fake.OpRestore, "warm", errBadSnapshot},
		{"twice", 2, fake.OpRestore, "cold", errBadSnapshot},
		{"before vCPUs ran", 1, fake.OpResume, "warm", errors.New("broken on purpose")},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			left := 0
			h.opt.Fail = func(op fake.Op, _ string) error {
				if op == c.op && left > 0 {
					left--
					return c.err
				}
				return nil
			}
			h.start()
			i := h.instance()
			h.do(i.ID, mvm.OpSleep)
			left = c.fails
			got := h.do(i.ID, mvm.OpWake)
			if got.State != mvm.StateRunning || got.Last.Kind != c.kind {
				t.Errorf("%s by %q (%s), want running by %q", got.State, got.Last.Kind, got.Last.Reason, c.kind)
			}
			if c.kind == "cold" && !strings.Contains(got.Last.Reason, "snapshot not used") {
				t.Errorf("reason %q does not say why it was cold", got.Last.Reason)
			}
		})
	}
}
