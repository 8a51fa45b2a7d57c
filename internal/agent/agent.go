// Package agent runs one host: it owns the host's tenants, pools and instances and
// is the only writer of their state.
//
// Whoever asks for a change of an instance (the CLI, a gateway's wake, recovery)
// goes through that instance's runner: one queue, one operation at a time, equal
// requests joined into one. Each operation is a list of named steps (package file
// per operation); its intent is durable before the first step acts, and after a
// crash Open reads the intents and finishes or undoes what was cut off.
//
// Its parts are packages: aside, declare, deliver, fleet, health, idle, ingress, journal, live,
// netstate, reconcile and session. Each declares what it asks for, which a file here implements.
//
// The agent asks for contracts only (driver, network, image store); internal/host
// wires the real ones.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/aside"
	"mvm/internal/declare"
	"mvm/internal/deliver"
	"mvm/internal/driver"
	"mvm/internal/fleet"
	"mvm/internal/folders"
	"mvm/internal/health"
	"mvm/internal/idle"
	"mvm/internal/image"
	"mvm/internal/ingress"
	"mvm/internal/journal"
	"mvm/internal/live"
	"mvm/internal/netstate"
	"mvm/internal/network"
	"mvm/internal/policy"
	"mvm/internal/reconcile"
	"mvm/internal/session"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

// Sealer keeps secrets at rest; see package secrets.
type Sealer = fleet.Sealer

// Options are what an agent is made of. All fields without a stated default are
// required.
type Options struct {
	DataDir string // durable: state, instances, images
	RunDir  string // volatile: sockets; short, for unix socket paths
	Version string
	NodeID  string // default: the host name
	// APIAddress is where remote clients are answered; empty: nowhere.
	APIAddress string

	Store     *store.Store
	Driver    driver.Driver
	Network   network.Network
	Images    image.Store
	Sealer    Sealer
	Publisher ingress.Publisher
	// MakeDisk makes the empty file an ext4 disk of the size; default runs mkfs.ext4.
	MakeDisk func(ctx context.Context, f *os.File, mib int) error
	// Resolvers returns the resolvers that guests get, as they are now; nil: none. It is
	// asked every few seconds, and running guests are told of a change.
	Resolvers func() []netip.Addr
	Log       *slog.Logger
	// Metrics counts what the agent does; default: nothing does.
	Metrics Metrics
	// AuditRetention is how long an entry of the audit log is kept, default 90 days.
	AuditRetention time.Duration
	// SetAside bounds the snapshots that are kept though they could not be used.
	SetAside SetAsideLimits
	// Seam, when set, is called at every named point of every operation on an
	// instance, as "sleep.commit:before" and "sleep.commit:after". An error fails the
	// step.
	Seam func(point, instance string) error
	// Rand is where ids come from; default crypto/rand. It must be safe for
	// concurrent use.
	Rand io.Reader
	// ListenHost listens on an instance's host-bound socket, of the name in its run
	// dir; default is a unix socket.
	ListenHost func(runDir *sys.Folder, name string) (net.Listener, error)
	// KeepLogs has what guests log kept on the host, so that it outlives them.
	KeepLogs bool
	// Timeouts; zero fields take the defaults.
	Timeouts Timeouts
	// Reconcile is how often the agent looks at everything and makes it what was asked
	// for, beside when something changes; default 30 s. Negative: it does so for those
	// who wait (Apply), and never by itself.
	Reconcile time.Duration
	// DesiredFile, where given, has the desired state that the host is held to; it is
	// taken up when it changes.
	DesiredFile string
	// Trust says which desired states the host believes.
	Trust declare.Trust
	// Parallel bounds how many instances reconcile operates on at once, half of them
	// of one tenant; default 8.
	Parallel int
	// DialGuest connects to a port of a guest over its tenant's network; nil: TCP.
	DialGuest func(ctx context.Context, network, addr string) (net.Conn, error)
	// HostMemory measures the host's memory; default reads /proc.
	HostMemory func() (policy.Memory, error)
	// MemoryLimits say when idle instances make room; zero: never.
	MemoryLimits policy.MemoryLimits
}

// Timeouts bound what the agent waits for.
type Timeouts struct {
	Boot  time.Duration // VMM start to the guest agent's first answer, default 180 s
	Ready time.Duration // to every service ready, default 900 s
	Gate  time.Duration // one try of the resume gate, default 20 s
	Call  time.Duration // one request to a guest, default 10 s
}

func (t Timeouts) withDefaults() Timeouts {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Boot, 180*time.Second)
	def(&t.Ready, 900*time.Second)
	def(&t.Gate, 20*time.Second)
	def(&t.Call, 10*time.Second)
	return t
}

// Agent implements api.Service. Make one with New, then Open it, and Close it.
type Agent struct {
	opt     Options
	log     *slog.Logger
	store   *store.Store
	folders folders.Folders
	journal *journal.Journal
	started time.Time

	ctx    context.Context // ends with Close; operations run under it
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	runners map[string]*runner // by instance id; there while jobs are queued
	closed  bool

	fleet    *fleet.Fleet
	live     *live.VMMs
	declare  *declare.Declarer
	networks *netstate.Networks
	idle     *idle.Loop
	ingress  *ingress.Ingress
	session  *session.Sessions
	health   *health.Table
	aside    *aside.Keeper

	deliver    *deliver.Deliverer
	recovered  chan struct{} // closed once all instances are taken up
	halfDone   wait.Pending  // instances that an operation left half done
	wakeFaults wakeFaults
	reconciler *reconcile.Reconciler
}

var _ api.Service = (*Agent)(nil)

// New makes an agent that does nothing yet.
func New(opt Options) *Agent {
	opt.Timeouts = opt.Timeouts.withDefaults()
	if opt.MakeDisk == nil {
		opt.MakeDisk = makeExt4
	}
	opt.SetAside = opt.SetAside.WithDefaults()
	if opt.Metrics == nil {
		opt.Metrics = noMetrics{}
	}
	if opt.Seam == nil {
		opt.Seam = func(string, string) error { return nil }
	}
	if opt.Rand == nil {
		opt.Rand = rand.Reader
	}
	if opt.ListenHost == nil {
		opt.ListenHost = listenUnix
	}
	if opt.DialGuest == nil {
		opt.DialGuest = (&net.Dialer{}).DialContext
	}
	if opt.HostMemory == nil {
		opt.HostMemory = hostMemory
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &Agent{opt: opt, log: opt.Log, store: opt.Store, folders: folders.New(opt.DataDir, opt.RunDir, opt.Log), ctx: ctx, cancel: cancel,
		runners: map[string]*runner{}, recovered: make(chan struct{})}
	a.journal = journal.New(journal.Options{Store: opt.Store, Log: opt.Log, Retention: opt.AuditRetention})
	a.live = live.New(ctx, live.Options{Driver: opt.Driver, Networks: opt.Network, Images: opt.Images, Ingress: followed{a}, Watcher: followed{a}, Folders: a.folders,
		Log: opt.Log, Call: opt.Timeouts.Call, KeepLogs: opt.KeepLogs})
	a.health = health.New(health.Options{Guests: watched{guests{a}}, Idle: watched{guests{a}}, Reconcile: watched{guests{a}}, Store: opt.Store, Log: opt.Log, Call: opt.Timeouts.Call})
	a.aside = aside.New(aside.Options{Store: opt.Store, Host: asideOf{a}, Folders: a.folders, Limits: opt.SetAside, Log: opt.Log})
	a.networks = netstate.New(opt.Network, opt.Store)
	a.deliver = deliver.New(deliver.Options{Store: opt.Store, Guests: guests{a}, Secrets: guests{a}, Log: opt.Log, Resolvers: opt.Resolvers, Call: opt.Timeouts.Call})
	a.ingress = ingress.New(ctx, ingress.Options{Instances: reached{guests{a}}, Queue: reached{guests{a}}, Fleet: reached{guests{a}}, Deliver: a.deliver,
		Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics, Publisher: opt.Publisher, Log: opt.Log, Call: opt.Timeouts.Call,
		DialGuest: opt.DialGuest, Recovered: a.recovered})
	a.session = session.New(ctx, session.Options{Guests: looked{guests{a}}, Journal: a.journal, Console: folders.Console, Call: opt.Timeouts.Call})
	a.idle = idle.New(idle.Options{Instances: resting{guests{a}}, Queue: resting{guests{a}}, Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics,
		Log: opt.Log, Call: opt.Timeouts.Call, Memory: opt.HostMemory, Limits: opt.MemoryLimits})
	a.reconciler = reconcile.New(ctx, reconcile.Options{Instances: reconciled{a}, Images: reconciled{a}, Queue: reconciled{a}, Store: opt.Store, Journal: a.journal,
		Metrics: opt.Metrics, Log: opt.Log, Every: opt.Reconcile, Parallel: opt.Parallel, Rand: opt.Rand, Seam: opt.Seam})
	a.fleet = fleet.New(fleet.Options{Store: opt.Store, Journal: a.journal, Networks: networks{a.networks, opt.Network}, Images: images{opt.Images, a},
		Queue: commanded{a}, Reconcile: a.reconciler, Ports: a.ingress, Deliver: a.deliver, Watch: watched{guests{a}}, Sealer: opt.Sealer, Log: opt.Log, Rand: opt.Rand})
	a.declare = declare.New(declare.Options{Records: records{a.fleet}, Reconcile: a.reconciler, Deliver: a.deliver, Store: opt.Store, Journal: a.journal,
		Log: opt.Log, NodeID: a.nodeID, File: opt.DesiredFile, Trust: opt.Trust, Seam: opt.Seam})
	return a
}

// driverInfo describes the driver. It is asked each time, since a driver may find
// its accelerator only with the first image.
func (a *Agent) driverInfo(ctx context.Context) (driver.Info, error) { return a.opt.Driver.Info(ctx) }

// errClosing is the cause by which Close ends operations.
var errClosing = mvm.Away("the agent is shutting down")

// Open takes up the host: networks as they should be, VMMs that run, operations
// that were cut off, leftovers that nobody owns. When it returns the agent serves.
func (a *Agent) Open(ctx context.Context) error {
	a.started = time.Now()
	if err := a.declare.CheckKept(); err != nil {
		return err
	}
	if _, err := a.driverInfo(ctx); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "probe driver: %w", err)
	}
	a.deliver.ReadResolvers()
	if err := a.recover(ctx); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "recover host: %w", err)
	}
	a.fleet.LogWarnings(ctx)
	a.goTracked(a.journal.Run)
	a.goTracked(func() { a.aside.Run(a.ctx) })
	a.goTracked(a.keepNetworks)
	a.goTracked(a.keepDelivered)
	a.goTracked(a.keepRepairing)
	a.goTracked(func() { a.fleet.Run(a.ctx) })
	a.reconciler.Start(a.declare)
	a.goTracked(func() { a.idle.Run(a.ctx) })
	return nil
}

// Close stops operations (each undoes what it had half done), lets go of the VMMs,
// which go on running, and waits for everything the agent started.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel(errClosing)
	a.journal.Close()
	errs := []error{a.opt.Publisher.Close()}
	a.reconciler.Close()
	a.ingress.Close()
	a.wg.Wait()
	errs = append(errs, a.live.Close())
	return errors.Join(errs...)
}

// goTracked runs fn in a goroutine that Close waits for; false when closing.
func (a *Agent) goTracked(fn func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.wg.Go(fn)
	return true
}
