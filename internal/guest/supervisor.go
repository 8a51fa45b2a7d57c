package guest

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// States of a service, as ServiceStatus has them.
const (
	stateStarting = "starting"
	stateReady    = "ready"
	stateFailed   = "failed"
	stateBackoff  = "backoff"
	stateStopped  = "stopped"
	stateDone     = "done"
)

// Supervisor runs the image's services. Its methods may be called concurrently.
type Supervisor struct {
	cfg SupervisorConfig

	mu      sync.Mutex
	env     map[string]string
	units   []*unit
	broken  []guestproto.ServiceStatus
	cancel  context.CancelFunc // nil before Start
	hard    chan struct{}      // closed when no grace is left
	running sync.WaitGroup
}

// SupervisorConfig is what a Supervisor works with.
type SupervisorConfig struct {
	Processes *Processes
	Journal   *Journal
	Log       *slog.Logger
	Etc       string    // folder of passwd and group
	Secrets   string    // folder of secrets, for SecretEnv
	Console   io.Writer // what services write before they are ready goes there too
	// Changed is called, from several goroutines, when readiness may have changed.
	Changed func()
}

// NewSupervisor returns a supervisor that runs nothing yet.
func NewSupervisor(cfg SupervisorConfig) *Supervisor {
	return &Supervisor{cfg: cfg, hard: make(chan struct{})}
}

// Broken adds services that can't run to what Status shows.
func (s *Supervisor) Broken(errs ...*ServiceError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range errs {
		s.broken = append(s.broken, guestproto.ServiceStatus{Name: e.Service, State: stateFailed, Detail: e.Err.Error()})
	}
}

// SetEnv replaces the environment that services get when they start next; it wins
// over their own.
func (s *Supervisor) SetEnv(env map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env = env
}

// Start starts the services, which are in the order of LoadServices. It does so
// once: later calls do nothing.
func (s *Supervisor) Start(services []Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	byName := map[string]*unit{}
	for _, def := range services {
		u := newUnit(s, def)
		for _, name := range def.After {
			u.after = append(u.after, byName[name])
			byName[name].needed = append(byName[name].needed, u)
		}
		byName[def.Name] = u
		s.units = append(s.units, u)
	}
	for _, u := range s.units {
		s.running.Go(func() { u.run(ctx) })
	}
}

// Stop stops the services, each after those that need it, with SIGTERM and, past
// its grace or when ctx ends, SIGKILL. It returns when all have ended, at the
// latest 3 s after ctx; then KindTimeout names those that still run. It is
// idempotent; there is no way to start again.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.cancel == nil {
		s.cancel = func() {}
	}
	s.cancel()
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		s.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	if s.hard != nil {
		close(s.hard)
		s.hard = nil
	}
	s.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-time.After(3 * time.Second):
		return mvm.Errorf(mvm.KindTimeout, "stop services: %s still run after SIGKILL", strings.Join(s.alive(), ", "))
	}
}

func (s *Supervisor) alive() []string {
	var names []string
	for _, st := range s.Status() {
		if st.PID != 0 {
			names = append(names, st.Name)
		}
	}
	return names
}

// Status tells of every service, the broken ones last.
func (s *Supervisor) Status() []guestproto.ServiceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]guestproto.ServiceStatus, 0, len(s.units)+len(s.broken))
	for _, u := range s.units {
		out = append(out, u.status)
	}
	return append(out, s.broken...)
}

// Ready reports whether Start was called and every service is ready or done.
func (s *Supervisor) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cancel != nil && len(s.broken) == 0 && !slices.ContainsFunc(s.units, func(u *unit) bool {
		return u.status.State != stateReady && u.status.State != stateDone
	})
}

// BusyURLs returns the URLs that tell whether a ready service is busy.
func (s *Supervisor) BusyURLs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var urls []string
	for _, u := range s.units {
		if u.def.Busy != "" && u.status.State == stateReady {
			urls = append(urls, u.def.Busy)
		}
	}
	return urls
}

// update changes a unit's status.
func (s *Supervisor) update(u *unit, change func(*guestproto.ServiceStatus)) {
	s.mu.Lock()
	before := u.status
	change(&u.status)
	after := u.status
	s.mu.Unlock()
	if before.State == after.State {
		return
	}
	s.cfg.Log.Info("service", "name", after.Name, "state", after.State, "pid", after.PID, "restarts", after.Restarts, "detail", after.Detail)
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}
