package workload

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
)

// Processes starts every child process of the guest agent and collects how each
// ends. As PID 1 it also reaps orphans, so nothing else in the program may wait for
// children (no os/exec): the two would take each other's.
type Processes struct {
	init bool // PID 1: reap all, from Reap

	mu   sync.Mutex // held while forking and reaping, so that no exit is missed
	live map[int]*Process
}

// NewProcesses returns an empty set. init says that this is PID 1; then Reap must
// run. Children start with every signal at its default action, also where the guest
// agent was itself started with signals ignored (by nohup, or in a shell's background).
func NewProcesses(init bool) *Processes {
	stopIgnoring()
	return &Processes{init: init, live: map[int]*Process{}}
}

// stopIgnoring makes the program discard the signals that it was started to ignore. A
// child inherits what is ignored and can't trap it; what is discarded by a handler has its
// default action in the child.
func stopIgnoring() {
	for sig := syscall.Signal(1); sig <= unix.SIGSYS; sig++ {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}

// Process is a child that runs or has ended.
type Process struct {
	PID       int
	killGroup bool
	owner     *Processes
	done      chan struct{}
	status    unix.WaitStatus
}

// Command says what to start. It becomes the leader of a session and process group
// of its own.
type Command struct {
	Argv  []string
	Env   []string // all of it
	Dir   string   // "": the user's home
	User  User
	Files [3]*os.File // stdin, stdout, stderr; the caller closes its copies
	TTY   bool        // Files[0] becomes the controlling terminal
	// KillGroup: what is left of the process group is killed when the leader ends.
	KillGroup bool
}

// Start starts the command. KindNotFound when there is no such program.
func (p *Processes) Start(c Command) (*Process, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, mvm.Errorf(mvm.KindInvalid, "start process: no command")
	}
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: c.TTY}}
	if attr.Dir == "" {
		attr.Dir = c.User.Home
	}
	if c.User.UID != os.Getuid() || c.User.GID != os.Getgid() {
		attr.Sys.Credential = c.User.credential()
	}
	for _, f := range c.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, err := syscall.ForkExec(path, c.Argv, attr)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start %s in %s as user %s: %w", path, attr.Dir, c.User.Name, err)
	}
	proc := &Process{PID: pid, killGroup: c.KillGroup, owner: p, done: make(chan struct{})}
	p.live[pid] = proc
	if p.init {
		// PID 1 is protected from the OOM killer, and its children inherit that.
		_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0)
	} else {
		go p.waitOne(pid)
	}
	return proc, nil
}

// waitOne collects one child. It ends when the child does.
func (p *Processes) waitOne(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.collect(pid)
}

// Reap collects children and orphans until ctx ends. Only PID 1 calls it.
func (p *Processes) Reap(ctx context.Context) {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	defer signal.Stop(sigs)
	for {
		p.reapAll()
		select {
		case <-ctx.Done():
			return
		case <-sigs:
		}
	}
}

func (p *Processes) reapAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		pid := siginfoPID(&info)
		if err != nil || pid == 0 {
			return
		}
		p.collect(pid)
	}
}

// collect takes the exit status of a child that has ended. Until it does, the pid
// and its group can't be anyone else's, so signals go where they should.
func (p *Processes) collect(pid int) {
	proc := p.live[pid]
	if proc != nil && proc.killGroup {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if proc != nil {
		delete(p.live, pid)
		proc.status = status
		close(proc.done)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Code returns the exit code, or 128 and the signal that ended it. Done must be
// closed.
func (p *Process) Code() int {
	if p.status.Signaled() {
		return 128 + int(p.status.Signal())
	}
	return p.status.ExitStatus()
}

// Signal sends a signal to the process and its group. It does nothing once the
// process has ended.
func (p *Process) Signal(sig syscall.Signal) {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	if p.owner.live[p.PID] == p {
		_ = unix.Kill(-p.PID, sig)
	}
}

// SignalOne sends a signal to the process alone. It does nothing once it has ended.
func (p *Process) SignalOne(sig syscall.Signal) {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	if p.owner.live[p.PID] == p {
		_ = unix.Kill(p.PID, sig)
	}
}

// lookPath finds a program as execvp does, with the PATH of env.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, name)
			if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", mvm.Errorf(mvm.KindNotFound, "start process: no program %q in PATH", name)
}
