// Package agent runs one host: it owns the host's tenants, pools and instances and
// is the only writer of their state. It is made of parts, each a package: New joins them,
// Open and Close begin and end them in order, and the methods of api.Service pass on what
// they are asked.
//
// Each part declares the interfaces that it asks for, and knows no other; a file here
// implements them. docs/ARCHITECTURE.md says what each owns.
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
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/aside"
	"mvm/internal/builds"
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
	"mvm/internal/ledger"
	"mvm/internal/lifecycle"
	"mvm/internal/live"
	"mvm/internal/netstate"
	"mvm/internal/network"
	"mvm/internal/policy"
	"mvm/internal/ready"
	"mvm/internal/reconcile"
	"mvm/internal/recovery"
	"mvm/internal/resolver"
	"mvm/internal/schedule"
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

	Store   *store.Store
	Driver  driver.Driver
	Network network.Network
	// NamedTAPs is the Network where the driver's VMMs open TAPs by name; nil elsewhere.
	NamedTAPs network.NamedTAPs
	Images    image.Store
	Sealer    Sealer
	Publisher ingress.Publisher
	// MakeDisk makes the empty file an ext4 disk of the size; default runs mkfs.ext4.
	MakeDisk func(ctx context.Context, f *os.File, mib int) error
	// Names are the Network where mvm answers guests' questions for names, by asking Upstream;
	// nil elsewhere. Guests of closed tenants then ask their gateway address.
	Names    network.Names
	Upstream func() []netip.AddrPort
	// Resolvers returns the resolvers that other guests get, as they are now; nil: none. It is
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
	// Builds bound builds of images; zero fields take the defaults.
	Builds builds.Limits
	// DialGuest connects to a port of a guest over its tenant's network; nil: TCP.
	DialGuest func(ctx context.Context, network, addr string) (net.Conn, error)
	// Clock is the time of day, of timers and as guests are told it; default: it is never set.
	Clock schedule.Clock
	// HostMemory measures the host's memory; default reads /proc.
	HostMemory func() (policy.Memory, error)
	// MemoryLimits say when idle instances make room; zero: never.
	MemoryLimits policy.MemoryLimits
	// Ready says what memory of sleeping guests is kept in the host's memory; zero: none.
	Ready ready.Limits
}

// Timeouts bound what the agent waits for.
type Timeouts = lifecycle.Timeouts

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

	loops wait.Group

	fleet    *fleet.Fleet
	builds   *builds.Builds
	live     *live.VMMs
	declare  *declare.Declarer
	networks *netstate.Networks
	resolver *resolver.Resolver // nil: guests ask the host's name servers
	idle     *idle.Loop
	ingress  *ingress.Ingress
	session  *session.Sessions
	health   *health.Table
	aside    *aside.Keeper
	ledger   *ledger.Ledger
	ready    *ready.Keeper

	deliver    *deliver.Deliverer
	recovered  chan struct{} // closed once all instances are taken up
	reconciler *reconcile.Reconciler
	lifecycle  *lifecycle.Lifecycle
	recovery   *recovery.Recovery
	schedule   *schedule.Loop
}

var _ api.Service = (*Agent)(nil)

// withDefaults are the options with the defaults where nothing is given.
func (opt Options) withDefaults() Options {
	opt.Timeouts = opt.Timeouts.WithDefaults()
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
	if opt.Clock == nil {
		opt.Clock = steadyClock{}
	}
	return opt
}

// New makes an agent that does nothing yet.
func New(opt Options) *Agent {
	opt = opt.withDefaults()
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &Agent{opt: opt, log: opt.Log, store: opt.Store, ctx: ctx, cancel: cancel, recovered: make(chan struct{})}
	a.join()
	return a
}

// driverInfo describes the driver. It is asked each time, since a driver may find
// its accelerator only with the first image.
func (a *Agent) driverInfo(ctx context.Context) (driver.Info, error) { return a.opt.Driver.Info(ctx) }

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
	if err := a.openBuilds(); err != nil {
		return err
	}
	a.deliver.ReadResolvers()
	if err := a.recovery.Recover(ctx); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "recover host: %w", err)
	}
	a.fleet.LogWarnings(ctx)
	if err := a.fleet.TellChanges(ctx); err != nil {
		return err
	}
	a.loops.Go(a.journal.Run)
	a.loops.Go(func() { a.aside.Run(a.ctx) })
	a.loops.Go(a.keepNetworks)
	a.loops.Go(a.keepDelivered)
	a.loops.Go(func() { a.lifecycle.Run(a.ctx) })
	a.loops.Go(func() { a.fleet.Run(a.ctx) })
	a.reconciler.Start(a.declare)
	a.loops.Go(func() { a.idle.Run(a.ctx) })
	a.loops.Go(func() { a.ready.Run(a.ctx) })
	a.loops.Go(func() { a.schedule.Run(a.ctx) })
	if _, steady := a.opt.Clock.(steadyClock); !steady {
		a.loops.Go(a.followClock)
	}
	return nil
}

// Close stops operations (each undoes what it had half done), lets go of the VMMs,
// which go on running, and waits for everything the agent started.
func (a *Agent) Close() error {
	a.lifecycle.Stop()
	a.cancel(lifecycle.ErrClosing)
	a.journal.Close()
	err := a.opt.Publisher.Close()
	a.reconciler.Close()
	a.builds.Close()
	a.ingress.Close()
	a.lifecycle.Close()
	a.loops.Close()
	a.closeResolver()
	return errors.Join(err, a.live.Close())
}

// openBuilds takes up the builds that are kept, but those of tenants that are gone.
func (a *Agent) openBuilds() error {
	known := map[string]bool{}
	err := a.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		for _, t := range tenants {
			known[t.ID] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.builds.Open(func(tenant string) bool { return known[tenant] })
}
