// Package workload runs the services of an image: it starts, watches and restarts them, waits
// until they are ready, asks them by HTTP or by commands, and keeps the last of what they print.
package workload

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// States of a service, as ServiceStatus has them.
const (
	stateStarting = "starting"
	StateReady    = "ready"
	stateFailed   = "failed"
	stateBackoff  = "backoff"
	stateStopped  = "stopped"
	StateDone     = "done"
)

// Supervisor runs the image's services. Its methods may be called concurrently.
type Supervisor struct {
	cfg SupervisorConfig

	ctx     context.Context // ends when Stop begins
	cancel  context.CancelFunc
	running sync.WaitGroup
	turn    sync.Mutex // one Apply at a time

	mu      sync.Mutex // guards what follows, and the units' status and needed
	env     map[string]string
	units   []*unit
	broken  []guestproto.ServiceStatus
	applied bool
	hard    chan struct{} // closed when no grace is left, then nil
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
	// Starting is called with the name of a service before each of its starts.
	Starting func(name string)
}

// NewSupervisor returns a supervisor that runs nothing yet.
func NewSupervisor(cfg SupervisorConfig) *Supervisor {
	ctx, cancel := context.WithCancel(context.Background())
	return &Supervisor{cfg: cfg, ctx: ctx, cancel: cancel, hard: make(chan struct{})}
}

// Broken adds services that can't run to what Status shows.
func (s *Supervisor) Broken(errs ...*ServiceError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range errs {
		s.broken = append(s.broken, guestproto.ServiceStatus{Name: e.Service, State: stateFailed, Detail: e.Err.Error()})
	}
}

// Apply has exactly these services run, of those in the order of LoadServices whose
// IfEnv holds in env: it starts the ones that do not run and stops, and waits for,
// the ones that should not. env wins over their own environment; a service that
// runs already gets it when it starts next. After Stop it does nothing.
func (s *Supervisor) Apply(services []Service, env map[string]string) {
	s.turn.Lock()
	defer s.turn.Unlock()
	wanted := slices.Clone(services)
	wanted = slices.DeleteFunc(wanted, func(d Service) bool { return d.IfEnv != "" && env[d.IfEnv] == "" })
	for _, u := range s.remove(wanted) {
		u.cancel()
		<-u.gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env, s.applied = maps.Clone(env), true
	if s.ctx.Err() != nil {
		return
	}
	for _, def := range wanted {
		if s.find(def.Name) == nil {
			s.start(def)
		}
	}
}

// remove takes the units that are not wanted out of the list and returns them.
func (s *Supervisor) remove(wanted []Service) []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []*unit
	s.units = slices.DeleteFunc(s.units, func(u *unit) bool {
		if slices.ContainsFunc(wanted, func(d Service) bool { return d.Name == u.def.Name }) {
			return false
		}
		gone = append(gone, u)
		return true
	})
	slices.Reverse(gone)
	return gone
}

func (s *Supervisor) find(name string) *unit {
	for _, u := range s.units {
		if u.def.Name == name {
			return u
		}
	}
	return nil
}

// start adds a unit. What it needs is there already, or is not wanted and then not
// waited for.
func (s *Supervisor) start(def Service) {
	u := newUnit(s, def)
	for _, name := range def.After {
		if dep := s.find(name); dep != nil {
			u.after = append(u.after, dep)
			dep.needed = append(dep.needed, u)
		}
	}
	s.units = append(s.units, u)
	var ctx context.Context
	ctx, u.cancel = context.WithCancel(s.ctx)
	s.running.Go(func() {
		defer u.cancel()
		u.run(ctx)
	})
}

// Stop stops the services, each after those that need it, with SIGTERM and, past
// its grace or when ctx ends, SIGKILL. It returns when all have ended, at the
// latest 3 s after ctx; then KindTimeout names those that still run. It is
// idempotent; there is no way to start again.
func (s *Supervisor) Stop(ctx context.Context) error {
	s.mu.Lock() // so that Apply starts nothing after it
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

// Ready reports whether Apply was called and every service is ready or done.
func (s *Supervisor) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied && len(s.broken) == 0 && !slices.ContainsFunc(s.units, func(u *unit) bool {
		return u.status.State != StateReady && u.status.State != StateDone
	})
}

// ReadyOnes returns the definitions of the ready services that are asked for.
func (s *Supervisor) ReadyOnes(wanted func(Service) bool) []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Service
	for _, u := range s.units {
		if u.status.State == StateReady && wanted(u.def) {
			out = append(out, u.def)
		}
	}
	return out
}

// Trouble notes what of a ready service does not work, "" for nothing. It shows in its status.
func (s *Supervisor) Trouble(name, what string) {
	s.mu.Lock()
	u := s.find(name)
	changed := u != nil && u.status.State == StateReady && u.status.Detail != what
	if changed {
		u.status.Detail = what
	}
	s.mu.Unlock()
	if !changed {
		return
	}
	s.cfg.Log.Info("service", "name", name, "state", StateReady, "trouble", what)
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}

// Troubled is a ready service of which something does not work; nil: there is none.
func (s *Supervisor) Troubled() *guestproto.ServiceStatus {
	for _, st := range s.Status() {
		if st.State == StateReady && st.Detail != "" {
			return &st
		}
	}
	return nil
}

// Life says how often services were started anew, and how long ago one was started last.
func (s *Supervisor) Life() (restarts int, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last time.Time
	for _, u := range s.units {
		restarts += u.status.Restarts
		if u.began.After(last) {
			last = u.began
		}
	}
	if last.IsZero() {
		return restarts, 0
	}
	return restarts, time.Since(last)
}

// Signal sends a signal to the main process of a service, if it runs.
func (s *Supervisor) Signal(name string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.find(name)
	if u == nil || u.proc == nil {
		return mvm.Errorf(mvm.KindState, "signal service %s: it does not run", name)
	}
	u.proc.SignalOne(sig)
	return nil
}

// RunAs runs a command to its end as a service's user, with its environment. The
// error has the first bytes of its output.
func (s *Supervisor) RunAs(ctx context.Context, name string, argv []string) error {
	s.mu.Lock()
	u := s.find(name)
	s.mu.Unlock()
	if u == nil {
		return mvm.Errorf(mvm.KindState, "run %s for service %s: it does not run", argv[0], name)
	}
	out, err := u.runAs(ctx, argv)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if out = strings.TrimSpace(out); err != nil && out != "" {
		err = fmt.Errorf("%w: %s", err, Clip(out))
	}
	return err
}

// update changes a unit's status.
func (s *Supervisor) update(u *unit, change func(*guestproto.ServiceStatus)) {
	s.mu.Lock()
	before := u.status
	change(&u.status)
	after := u.status
	s.mu.Unlock()
	if before.State == after.State {
		if before.Fails != after.Fails && s.cfg.Changed != nil {
			s.cfg.Changed()
		}
		return
	}
	s.cfg.Log.Info("service", "name", after.Name, "state", after.State, "pid", after.PID, "restarts", after.Restarts, "detail", after.Detail)
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}
