// Package guest is the logic inside the VM: PID 1, configuration from the host,
// services, the guest channel and, in the gateway role, routing.
package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Paths are the places in the guest's file system that the agent works with.
type Paths struct {
	Services string // service definitions of the image
	Secrets  string // made by the agent
	Config   string // made by the agent
	Run      string // flags of workload and agent
	Data     string // the data disk, where there is one
	Etc      string // passwd and group
}

// DefaultPaths are those of formats.md section 9.
func DefaultPaths() Paths {
	return Paths{Services: definition.Dir, Secrets: "/run/secrets", Config: "/etc/mvm-config", Run: "/run/mvm",
		Data: "/data", Etc: "/etc"}
}

// Options are what an Agent is made of.
type Options struct {
	System    System
	Processes *workload.Processes
	Journal   *workload.Journal
	Log       Log
	Paths     Paths
	Console   io.Writer // may be nil
	Router    Router    // nil: this agent has no gateway role
	Host      Host      // is told how the services are; nil: it asks
	// Channels says how the gateway's channels are; nil: there are none.
	Channels func() []guestproto.ChannelStatus
	// Inbox answers what is asked of the messages that the gateway keeps; nil: it keeps none.
	Inbox func(guestproto.Inbox) guestproto.InboxReport
	// CheckChannels looks at how the gateway's channels are just now; nil: there are none.
	CheckChannels func(context.Context) guestproto.ChannelChecks
}

// Agent is the guest agent: it answers the host's requests, configures the guest
// and runs its services. Its methods may be called concurrently.
type Agent struct {
	sys      System
	procs    *workload.Processes
	journal  *workload.Journal
	log      Log
	paths    Paths
	router   Router
	channels func() []guestproto.ChannelStatus
	inbox    func(guestproto.Inbox) guestproto.InboxReport
	checks   func(context.Context) guestproto.ChannelChecks
	sup      *workload.Supervisor
	services []workload.Service

	integrations *integrations
	suspension   *suspension
	settler      *settler
	health       *health
	nextWake     *nextWake
	worker       worker
	shutdown     chan time.Duration // the grace of the first Shutdown
	ending       atomic.Bool        // there was one
	conns        chan struct{}      // a slot for each connection
	background   sync.WaitGroup
	stop         context.CancelFunc
	stopping     context.Context // ends when Close begins

	configuring sync.Mutex // one Configure at a time; guards last
	last        applied

	mu         sync.Mutex // guards what follows
	configured bool
	restored   bool // the restore commands of this boot have been started
	env        map[string]string
}

// New makes an agent and reads the image's service definitions. It starts nothing.
// A definition that is wrong is shown by Status and logged, not returned.
func New(o Options) (*Agent, error) {
	if err := os.MkdirAll(o.Paths.Run, 0o755); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make %s: %w", o.Paths.Run, err)
	}
	// Workloads of any user put their flags there; the sticky bit keeps the agent's.
	if err := os.Chmod(o.Paths.Run, 0o777|os.ModeSticky); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open %s to workloads: %w", o.Paths.Run, err)
	}
	a := &Agent{sys: o.System, procs: o.Processes, journal: o.Journal, log: o.Log, paths: o.Paths, router: o.Router, channels: o.Channels, inbox: o.Inbox, checks: o.CheckChannels,
		shutdown: make(chan time.Duration, 1), conns: make(chan struct{}, maxConns)}
	a.stopping, a.stop = context.WithCancel(context.Background())
	a.suspension, a.settler, a.health = newSuspension(a), newSettler(a), &health{a: a, host: o.Host}
	a.nextWake = newNextWake(a)
	a.sup = workload.NewSupervisor(workload.SupervisorConfig{Processes: o.Processes, Journal: o.Journal, Log: o.Log.Logger, Etc: o.Paths.Etc,
		Secrets: o.Paths.Secrets, Console: o.Console, Changed: a.readiness, Starting: a.settler.starts})
	services, err := workload.LoadServices(o.Paths.Services)
	a.services = services
	for _, e := range serviceErrors(err) {
		a.log.Error("service definition", "name", e.Service, "error", e.Err)
		a.sup.Broken(e)
	}
	a.integrations = newIntegrations(a)
	a.prepareData()
	return a, nil
}

// serviceErrors takes what LoadServices joined apart.
func serviceErrors(err error) []*workload.ServiceError {
	var one *workload.ServiceError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*workload.ServiceError
		for _, e := range joined.Unwrap() {
			all = append(all, serviceErrors(e)...)
		}
		return all
	}
	if errors.As(err, &one) {
		return []*workload.ServiceError{one}
	}
	if err != nil {
		return []*workload.ServiceError{{Service: "", Err: err}}
	}
	return nil
}

// Shutdown gives the grace that the host's Shutdown asked for, once.
func (a *Agent) Shutdown() <-chan time.Duration { return a.shutdown }

// Close stops the router and the services, these with the grace that ctx leaves,
// and waits for what the agent started. Connections end with Serve's context.
func (a *Agent) Close(ctx context.Context) error {
	a.mu.Lock() // so that readiness starts nothing after it
	a.stop()
	a.mu.Unlock()
	err := a.sup.Stop(ctx)
	if a.router != nil {
		err = errors.Join(err, a.router.Close())
	}
	a.background.Wait()
	return err
}

// readiness makes the flag worker-ready tell the truth and, when all services are
// ready for the first time, has the integrations restored.
func (a *Agent) readiness() {
	a.mu.Lock()
	defer a.mu.Unlock()
	ready := a.configured && a.sup.Ready()
	if err := a.flag("worker-ready", ready); err != nil {
		a.log.Error("write flag", "flag", "worker-ready", "error", err)
	}
	if a.stopping.Err() != nil {
		return
	}
	if a.configured {
		a.nextWake.follow()
		if a.health.changed() {
			a.background.Go(a.health.tell)
		}
	}
	if ready && !a.restored {
		a.restored = true
		a.background.Go(func() { _ = a.integrations.restore(a.stopping) })
	}
	if a.settler.anyDue() { // a service became ready that was not told yet
		a.background.Go(a.settler.tellSoon)
	}
}

// ChannelsChanged has the host told how the channels are. It does not block.
func (a *Agent) ChannelsChanged() { a.tellHealth() }

// tellHealth tells the host that something of the status has changed.
func (a *Agent) tellHealth() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.configured && a.stopping.Err() == nil && a.health.changed() {
		a.background.Go(a.health.tell)
	}
}

// goBackground runs fn in a goroutine that Close waits for, unless it has begun.
func (a *Agent) goBackground(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping.Err() == nil {
		a.background.Go(fn)
	}
}

// flag sets or removes one of the files by which agent and workloads tell of
// themselves.
func (a *Agent) flag(name string, on bool) error {
	path := filepath.Join(a.paths.Run, name)
	if !on {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	if exists(path) {
		return nil
	}
	return replaceFile(path, nil, 0o644)
}

// serviceUsers are the users that services run as, those of broken ones left out.
func (a *Agent) serviceUsers() []workload.User {
	var users []workload.User
	for _, s := range a.services {
		if u, err := workload.LookupUser(a.paths.Etc, s.User); err == nil {
			users = append(users, u)
		}
	}
	return users
}

// workload is the user that the workload runs as: the only one of the services
// that is not root, else root.
func (a *Agent) workload() workload.User {
	users := a.serviceUsers()
	who := accessFor(users)
	for _, u := range users {
		if u.UID == who.uid {
			return u
		}
	}
	root, err := workload.LookupUser(a.paths.Etc, "")
	if err != nil {
		a.log.Error("look up root", "error", err)
	}
	return root
}

// prepareData gives a fresh data disk's top folder to the workload.
func (a *Agent) prepareData() {
	st, err := os.Stat(a.paths.Data)
	if user := a.workload(); err == nil && st.IsDir() && user.UID != 0 {
		if err := chownFromRoot(a.paths.Data, st, user); err != nil {
			a.log.Error("give data folder to the workload", "user", user.Name, "error", err)
		}
	}
}

// status tells how far the guest is.
func (a *Agent) status() guestproto.Status {
	s := guestproto.Status{NextWake: a.nextWake.at()}
	s.Services, s.Version = a.health.look()
	if up, err := a.sys.Uptime(); err == nil {
		s.UptimeSecs = up.Seconds()
	}
	if a.router != nil {
		s.ActiveRequests = a.router.Active()
	}
	if a.channels != nil {
		s.Channels = a.channels()
	}
	a.mu.Lock()
	configured := a.configured
	a.mu.Unlock()
	s.Ready = configured && a.sup.Ready()
	switch {
	case !configured:
		s.Detail = "not configured yet"
	case !s.Ready:
		s.Detail = notReady(s.Services)
	}
	return s
}

func notReady(services []guestproto.ServiceStatus) string {
	for _, s := range services {
		if s.State != workload.StateReady && s.State != workload.StateDone {
			detail := "service " + s.Name + " is " + s.State
			if s.Detail != "" {
				detail += ": " + s.Detail
			}
			return detail
		}
	}
	return ""
}

// exists reports whether there is something at the path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
