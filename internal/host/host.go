// Package host makes a host's agent of its parts: the configured driver, networks,
// images and keys. It is the wiring that cmd/mvm runs, and tests with seams.
package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/api"
	"mvm/internal/driver"
	"mvm/internal/image"
	"mvm/internal/manifest"
	"mvm/internal/network"
	"mvm/internal/owner"
	"mvm/internal/policy"
	"mvm/internal/publish"
	"mvm/internal/ready"
	"mvm/internal/schedule"
	"mvm/internal/secrets"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// closeGrace is how long operations may go on once the agent must end. What is cut
// off then is finished or undone by the next agent.
const closeGrace = 10 * time.Second

// Options say how an agent works.
type Options struct {
	manifest.AgentConfig
	// GuestBinary is the static mvm-guest for built-in images; empty: looked for.
	GuestBinary string
	// Version is that of this binary.
	Version api.Version
	// Clock is the time of day; nil: the host's. Tests set one.
	Clock schedule.Clock `json:"-"`
}

// Seam is called at every named point of every operation of the agent; see
// agent.Options. Tests use it to stop an agent at one point.
type Seam func(point string) error

// agents returns the seam as the agent calls it.
func (s Seam) agents() func(point, instance string) error {
	if s == nil {
		return nil
	}
	return func(point, _ string) error { return s(point) }
}

// Serve makes an agent of its parts and serves it until the context ends. VMMs
// outlive it. seam may be nil.
func Serve(ctx context.Context, o Options, seam Seam) (err error) {
	source := keySource(o.AgentConfig, secrets.TakeEnv())
	log := newLogger(os.Stderr, o.LogLevel, o.LogFormat)
	if err := sys.Undumpable(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "keep secrets from other processes: %w", err)
	}
	if err := fit(o.AgentConfig, source); err != nil {
		return err
	}
	group, err := lookupGroup(o.SocketGroup)
	if err != nil {
		return err
	}
	own, err := takeFolders(o)
	if err != nil {
		return err
	}
	defer closing(&err, own.Close)
	ln, err := api.Listen(o.Socket, group)
	if err != nil {
		return err
	}
	defer closing(&err, ln.Close)
	key, err := source.Load()
	if err != nil {
		return err
	}
	if err := key.Lock(); err != nil {
		log.Warn("the master key may get into swap", "error", err, "fix", "raise the agent's limit of locked memory (LimitMEMLOCK=64K in its unit), or turn swap off")
	}
	st, err := openStore(o, key)
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	p, err := newParts(o, own.Owner, st, log)
	if err != nil {
		return err
	}
	defer closing(&err, p.close)
	m, stop, err := serveMetrics(o, st, log)
	if err != nil {
		return err
	}
	defer closing(&err, stop)
	rem, err := listenRemote(o, st, log)
	if err != nil {
		return err
	}
	a, err := newAgent(o, key, st, p, m, seam, rem.addr(), log)
	if err != nil {
		return errors.Join(err, rem.close())
	}
	defer closing(&err, a.Close)
	defer closing(&err, rem.close)
	if err := a.Open(ctx); err != nil {
		return err
	}
	rem.figures(m)
	c := api.ServerConfig{Version: o.Version, Log: log, Count: m.Request, Origins: o.Remote.Origins, ReadsHost: func(ref string) bool { return image.ReadsHost(p.builders, ref) }}
	rem.open(a, c)
	c.Group = group
	return serveAPI(ctx, a, ln, c)
}

// parts are what differs between drivers.
type parts struct {
	driver   driver.Driver
	network  network.Network
	named    network.NamedTAPs // nil: TAPs are handed on open
	names    network.Names     // nil: guests ask the host's name servers
	builders []image.Builder
	makeDisk func(ctx context.Context, f *os.File, mib int) error
	close    func() error
}

func newParts(o Options, own owner.Owner, st *store.Store, log *slog.Logger) (parts, error) {
	if o.Driver == "fake" {
		return fakeParts(o), nil
	}
	return realParts(o, own, st, log)
}

func newAgent(o Options, key *secrets.Key, st *store.Store, p parts, m agent.Metrics, seam Seam, apiAddr string, log *slog.Logger) (*agent.Agent, error) {
	images, err := image.Open(filepath.Join(o.DataDir, "images"), p.builders, log)
	if err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = sys.WallClock{}
	}
	keeper, kept := keptListeners(log)
	return agent.New(agent.Options{
		DataDir: o.DataDir, RunDir: o.RunDir, Version: o.Version.Version, NodeID: o.NodeID, APIAddress: apiAddr,
		Store: st, Driver: p.driver, Network: p.network, NamedTAPs: p.named, Names: p.names, Images: images, Sealer: key,
		Publisher: publish.New(publish.Options{Log: log, Keeper: keeper, Kept: kept}),
		MakeDisk:  p.makeDisk, Resolvers: resolvers(o.DNS, log), Upstream: upstream(o.DNS), Seam: seam.agents(), Log: log, Metrics: m, AuditRetention: o.Observe.AuditRetention,
		SetAside: setAsideLimits(o.Snapshots), Reconcile: o.Reconcile.Interval, DesiredFile: o.Reconcile.File,
		Trust: stateTrust(o.Trust), KeepLogs: true,
		Clock: o.Clock, MemoryLimits: policy.MemoryLimits{FreePercent: o.Memory.FreePercent, StalledPercent: o.Memory.StalledPercent},
		Ready: ready.Limits{Percent: o.Ready.Percent, TenantPercent: o.Ready.TenantPercent, Keep: o.Ready.Keep, FreePercent: o.Memory.FreePercent, StalledPercent: o.Memory.StalledPercent},
	}), nil
}

// serveAPI answers on the listener until the context ends, and then lets what is
// under way end.
func serveAPI(ctx context.Context, svc api.Service, ln *api.Listener, cfg api.ServerConfig) error {
	srv := api.NewServer(svc, cfg)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	tellReady(cfg.Log)
	cfg.Log.Info("agent serves", "socket", ln.Addr().String(), "version", cfg.Version.Version)
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	cfg.Log.Info("agent ends; instances go on")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	return errors.Join(srv.Close(grace), <-served)
}

func closing(err *error, f func() error) { *err = errors.Join(*err, f()) }

// lookupGroup returns the gid of the group, -1 for none.
func lookupGroup(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, mvm.Errorf(mvm.KindInvalid, "socket_group: %w", err).WithFix("create it with `groupadd %s`", name)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, mvm.Errorf(mvm.KindInvalid, "socket_group %s has gid %q", name, g.Gid)
	}
	return gid, nil
}

// setAsideLimits are the agent's, for which 0 is the default.
func setAsideLimits(c manifest.SnapshotConfig) agent.SetAsideLimits {
	l := agent.SetAsideLimits{Keep: c.Keep, PerInstance: c.PerInstance, Bytes: int64(c.GiB) << 30}
	if l.Keep == 0 || l.Bytes == 0 {
		l.Keep = -1
	}
	return l
}
