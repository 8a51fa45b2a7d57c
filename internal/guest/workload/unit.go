package workload

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guestproto"
)

// Restart times of services.
const (
	backoffFirst = 500 * time.Millisecond
	backoffMost  = 30 * time.Second
	backoffReset = time.Minute
)

// Defaults of service definitions.
const (
	defaultStopGrace     = 10 * time.Second
	defaultReadyInterval = 500 * time.Millisecond
	defaultReadyTimeout  = 600 * time.Second
)

// unit is one service that runs. Its status is guarded by the supervisor's mutex.
type unit struct {
	sup    *Supervisor
	def    Service
	status guestproto.ServiceStatus
	proc   *Process  // that runs; nil when none does; guarded by the mutex too
	began  time.Time // when the last one was started; guarded by the mutex too
	after  []*unit   // must be ready before this starts
	needed []*unit   // must be gone before this stops; guarded by the mutex too
	cancel context.CancelFunc
	up     chan struct{} // closed when the service was ready, or done, once
	gone   chan struct{} // closed when run has returned
	once   sync.Once
}

func newUnit(s *Supervisor, def Service) *unit {
	return &unit{sup: s, def: def, up: make(chan struct{}), gone: make(chan struct{}),
		status: guestproto.ServiceStatus{Name: def.Name, State: stateStarting}}
}

// run keeps the service running until ctx ends or its restart policy is satisfied.
func (u *unit) run(ctx context.Context) {
	defer close(u.gone)
	for _, dep := range u.after {
		select {
		case <-dep.up:
		case <-ctx.Done():
			u.set(stateStopped, "")
			return
		}
	}
	for wait := backoffFirst; ; wait = min(2*wait, backoffMost) {
		began := time.Now()
		code, why := u.runOnce(ctx)
		if ctx.Err() != nil {
			u.set(stateStopped, why)
			return
		}
		if u.finished(code, why) {
			return
		}
		lasted := time.Since(began) > backoffReset
		if lasted {
			wait = backoffFirst
		}
		u.failed(lasted, why)
		select {
		case <-time.After(wait):
			u.sup.update(u, func(s *guestproto.ServiceStatus) { s.State, s.Restarts = stateStarting, s.Restarts+1 })
		case <-ctx.Done():
			u.set(stateStopped, why)
			return
		}
	}
}

// finished reports that the service is not to be started again, and says so.
func (u *unit) finished(code int, why string) bool {
	switch {
	case !u.def.Once() || u.def.Restart == "on-failure" && code != 0:
		return false
	case code != 0:
		u.set(stateFailed, why)
	default:
		u.set(StateDone, "")
		u.once.Do(func() { close(u.up) })
	}
	return true
}

// failed says that the run failed and another comes after a pause. lasted: it ran for
// long enough to begin the count anew, where it was ready.
func (u *unit) failed(lasted bool, why string) {
	u.sup.update(u, func(s *guestproto.ServiceStatus) {
		if lasted && s.State == StateReady {
			s.Fails = 0
		}
		s.State, s.Detail, s.PID, s.Fails = stateBackoff, why, 0, s.Fails+1
	})
}

// fails is how many runs failed in a row.
func (u *unit) fails() int {
	u.sup.mu.Lock()
	defer u.sup.mu.Unlock()
	return u.status.Fails
}

func (u *unit) set(state, detail string) {
	u.sup.update(u, func(s *guestproto.ServiceStatus) {
		s.State, s.Detail = state, detail
		if state != StateReady {
			s.PID = 0
		}
	})
}

// runOnce starts the service, waits until it ends, and returns its exit code and
// how it ended.
func (u *unit) runOnce(ctx context.Context) (code int, why string) {
	if u.sup.cfg.Starting != nil {
		u.sup.cfg.Starting(u.def.Name)
	}
	proc, logs, err := u.start()
	if err != nil {
		return 1, err.Error()
	}
	defer logs.finish()
	defer u.sup.update(u, func(*guestproto.ServiceStatus) { u.proc = nil })
	u.sup.update(u, func(s *guestproto.ServiceStatus) { s.PID, u.proc, u.began = proc.PID, proc, time.Now() })
	ready := make(chan error, 1)
	var check sync.WaitGroup
	defer check.Wait()
	checkCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	check.Go(func() { ready <- u.awaitReady(checkCtx) })
	var steady *time.Timer // it was ready for long enough to forget what failed before
	var forget <-chan time.Time
	defer func() {
		if steady != nil {
			steady.Stop()
		}
	}()
	for {
		select {
		case err := <-ready:
			ready = nil
			if err == nil {
				logs.mirror.Store(false)
				u.set(StateReady, "")
				u.once.Do(func() { close(u.up) })
				if u.fails() > 0 {
					steady = time.NewTimer(backoffReset)
					forget = steady.C
				}
			} else if ctx.Err() == nil {
				u.terminate(proc)
				return 1, err.Error()
			}
		case <-forget:
			u.sup.update(u, func(s *guestproto.ServiceStatus) {
				if s.State == StateReady {
					s.Fails = 0
				}
			})
		case <-proc.Done():
			cancel()
			code = proc.Code()
			u.sup.update(u, func(s *guestproto.ServiceStatus) { s.ExitCode = &code })
			return code, fmt.Sprintf("exited with code %d", code)
		case <-ctx.Done():
			u.stop(proc)
			return proc.Code(), ""
		}
	}
}

// stop ends the process once the services that need it are gone.
func (u *unit) stop(proc *Process) {
	u.sup.mu.Lock()
	needed := slices.Clone(u.needed)
	u.sup.mu.Unlock()
	for _, n := range needed {
		<-n.gone
	}
	u.terminate(proc)
}

// terminate sends the service's stop signal and, past the grace or the supervisor's, SIGKILL.
func (u *unit) terminate(proc *Process) {
	u.sup.mu.Lock()
	hard := u.sup.hard
	u.sup.mu.Unlock()
	grace := defaultStopGrace
	if u.def.StopGraceSecs > 0 {
		grace = time.Duration(u.def.StopGraceSecs) * time.Second
	}
	number, _ := u.def.StopNumber()
	proc.Signal(syscall.Signal(number))
	if hard != nil {
		select {
		case <-proc.Done():
		case <-hard:
		case <-time.After(grace):
		}
	}
	proc.Signal(unix.SIGKILL)
	<-proc.Done()
}

// start starts the process with its output going to the journal.
func (u *unit) start() (*Process, *capture, error) {
	user, err := LookupUser(u.sup.cfg.Etc, u.def.User)
	if err != nil {
		return nil, nil, err
	}
	env, err := u.environ(user)
	if err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	logs, stdout, stderr, err := newCapture(u.sup.cfg.Journal, u.def.Name, u.sup.cfg.Console)
	if err != nil {
		return nil, nil, err
	}
	proc, err := u.sup.cfg.Processes.Start(Command{Argv: u.def.Command, Env: env, Dir: u.def.Dir, User: user,
		Files: [3]*os.File{null, stdout, stderr}, KillGroup: true})
	stdout.Close()
	stderr.Close()
	if err != nil {
		logs.finish()
		return nil, nil, err
	}
	return proc, logs, nil
}
