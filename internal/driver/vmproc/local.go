package vmproc

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/jail"
	"mvm/internal/sys"
)

// Options configure a Local.
type Options struct {
	// Program is that of the VMMs, as /proc/PID/exe shows it.
	Program string
	// NameIn returns a VMM's marked name from the arguments of its process, "" for
	// anything else.
	NameIn func(args []string) string
	// Bounds are what it takes on.
	Bounds Bounds
	// Bounded refuses to run a VMM whose memory and processes can't be bounded, as
	// production mode wants it.
	Bounded bool
	// Mark returns what the VMMs of the Host carry, so that they are told from those
	// of other owners on this host; nil: they carry nothing. It finds those of the mark,
	// and by name alone those of an older mvm, which carry none.
	Mark func() (string, error)
	Log  *slog.Logger // nil: log nothing
	// Jail has the walls around VMMs.
	Jail jail.Jail
	// Enter puts a process into a cgroup; nil: sys.EnterCgroup.
	Enter func(name string, pid int, lim sys.CgroupLimits) (dirs []string, err error)
}

// Local is the Host of a process that has the rights itself.
type Local struct {
	bounds  Bounds
	bounded bool
	mark    func() (string, error)
	program string
	nameIn  func(args []string) string
	log     *slog.Logger
	jail    jail.Jail
	walls   *walls
	enter   func(name string, pid int, lim sys.CgroupLimits) ([]string, error)
}

var _ Host = (*Local)(nil)

// New makes a Local. It starts nothing.
func New(o Options) *Local {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Mark == nil {
		o.Mark = func() (string, error) { return "", nil }
	}
	if o.Enter == nil {
		o.Enter = sys.EnterCgroup
	}
	return &Local{bounds: o.Bounds, bounded: o.Bounded, mark: o.Mark, program: o.Program, nameIn: o.NameIn, log: o.Log, jail: o.Jail, walls: &walls{}, enter: o.Enter}
}

// Admit refuses to have a VMM started that is none of the host's, or as a user that is not
// one of the instances', and returns the mark that it is to carry.
func (h *Local) Admit(n Name, uid, gid int) (mark string, err error) {
	if err := h.bounds.Check(n, uid, gid); err != nil {
		return "", err
	}
	return h.mark()
}

// Limits bound a VMM's process.
type Limits struct {
	// Cgroup: it gets a cgroup of its own, with MemoryBytes and PIDs.
	Cgroup      bool
	MemoryBytes int64
	PIDs        int
	CPU
	// FileBytes is the size of the largest file that it may write.
	FileBytes uint64
	// Files is how many files it may have open at once.
	Files uint64
}

// CPU bounds the CPU time of a VMM.
type CPU struct {
	Weight int `json:"weight"` // as in sys.CgroupLimits
	Milli  int `json:"milli"`  // thousandths of a CPU
}

// DefaultCPU is what a VMM with so many vCPUs may take unless it is told otherwise. It
// computes beside them: half a CPU, which TCG and disks need.
func DefaultCPU(vcpus int) CPU { return CPU{Weight: 100 * vcpus, Milli: 1000*vcpus + 500} }

// CPUOf is what the limits say.
func CPUOf(l mvm.Limits) CPU { return CPU{Weight: l.CPUWeight, Milli: 10 * l.CPUPercent} }

// Bounds of CPU: those of Linux, and more CPUs than a VMM can have.
const (
	maxWeight = 10_000
	maxMilli  = 1_000_000
)

// Check refuses what no cgroup takes. KindInvalid.
func (c CPU) Check() error {
	if c.Weight < 1 || c.Weight > maxWeight || c.Milli < 10 || c.Milli > maxMilli {
		return mvm.Errorf(mvm.KindInvalid, "limit CPU time: weight %d and %d thousandths of a CPU are not in 1..%d and 10..%d", c.Weight, c.Milli, maxWeight, maxMilli)
	}
	return nil
}

// lockedBytes is how much memory a VMM may lock.
const lockedBytes = 64 << 10

// resources are the limits that the process itself has. No core: its memory holds secrets.
func (l Limits) resources() []jail.Limit {
	return []jail.Limit{{Resource: unix.RLIMIT_CORE}, {Resource: unix.RLIMIT_FSIZE, Value: l.FileBytes}, {Resource: unix.RLIMIT_NOFILE, Value: l.Files},
		{Resource: unix.RLIMIT_NPROC, Value: uint64(l.PIDs)}, {Resource: unix.RLIMIT_MEMLOCK, Value: lockedBytes}}
}

// Run starts the program of a VMM that was admitted with the mark, in the host's jail and
// bounded before its first instruction. cgroups are the folders that Leave is to remove,
// made or not. After an error nothing runs.
func (h *Local) Run(ctx context.Context, n Name, mark string, lim Limits, p jail.Program) (_ Process, cgroups []string, err error) {
	if lim.Cgroup { // those that Confine will make; a host without any is told there
		cgroups, _ = sys.CgroupDirs(markedCgroup(n, mark))
	}
	p.Limits = lim.resources()
	p.Enter = func(pid int) error { return h.Confine(pid, n, mark, lim) }
	s, err := h.jail.Start(ctx, p)
	var missing jail.Refused
	if errors.As(err, &missing) {
		err = mvm.Errorf(mvm.KindPolicy, "start the VMM of %s: walls are missing that production mode requires: %w", n.ID, err).WithFix("%s", missing.Lacks[0].Fix())
	}
	if err != nil {
		return nil, nil, errors.Join(err, sys.LeaveCgroup(cgroups))
	}
	if len(s.Lacks) > 0 {
		h.log.Warn("the VMM runs without some walls", "instance", n.ID, "missing", jail.Missing(s.Lacks))
	}
	return local{s.Process, search{name: n, mark: mark}.cgroups(), s.Guard}, cgroups, nil
}

// Confine bounds the process of a VMM as far as this host allows. It is an error only where
// that has to be all.
func (h *Local) Confine(pid int, n Name, mark string, lim Limits) error {
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // its memory holds secrets
	err = errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: lim.FileBytes, Max: lim.FileBytes}, nil))
	if lim.Cgroup {
		_, cerr := h.enter(markedCgroup(n, mark), pid, sys.CgroupLimits{MemoryBytes: lim.MemoryBytes, PIDs: lim.PIDs, CPUWeight: lim.CPU.Weight, CPUMilli: lim.CPU.Milli})
		err = errors.Join(err, cerr)
	}
	if err != nil && h.bounded {
		return mvm.Errorf(mvm.KindPolicy, "limit the VMM of %s, as production mode requires: %w", n.ID, err).
			WithFix("see \"Bounds of VMMs\" in docs/production.md, or set weak_isolation")
	}
	if err != nil {
		h.log.Warn("the VMM runs without some of its limits", "instance", n.ID, "error", err)
	}
	return nil
}

// Find is described at Host.
func (h *Local) Find(_ context.Context, n Name, hint Hint) (Process, error) {
	if err := h.bounds.name(n); err != nil {
		return nil, err
	}
	mark, err := h.mark()
	if err != nil {
		return nil, err
	}
	s := search{h: h, name: n, mark: mark, uid: hint.UID}
	if p, err := s.open(hint.PID); err == nil {
		if p.Start == hint.Start {
			return p, nil
		}
		p.Close()
	}
	for _, cgroup := range s.cgroups() {
		if p, err := s.any(sys.CgroupProcesses(cgroup)); p != nil || err != nil {
			return p, err
		}
	}
	pids, err := s.named()
	if err != nil {
		return nil, err
	}
	if p, err := s.any(pids); p != nil || err != nil {
		return p, err
	}
	if err := sys.SpareFiles(spareFiles); err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "look for the VMM of %s: %w", n.ID, err)
	}
	return nil, sys.ErrNoProcess
}

// spareFiles are more than a look at a process has open at once.
const spareFiles = 4

// search is for the VMM of a name.
type search struct {
	h    *Local
	name Name
	mark string
	uid  int // of the instance; 0: not known
}

// cgroups are the names of cgroups that are the VMM's alone. The second is an older mvm's.
func (s search) cgroups() []string {
	return []string{markedCgroup(s.name, s.mark), s.name.Cgroup()}
}

// isOf reports whether the arguments are of the VMM of the name that has the mark, or,
// started by an older mvm, none.
func (s search) isOf(args []string) bool {
	name := s.h.nameIn(args)
	return name == s.name.Marked(s.mark) || name == s.name.Marked("")
}

// named looks among the processes that run the program: the VMM has the name, or hides
// under none with a user that is the instance's.
func (s search) named() ([]int, error) {
	pids, err := sys.FindProcesses(s.h.program, func(user int) bool { return s.h.bounds.user(user, s.name, s.uid) })
	return slices.DeleteFunc(pids, func(pid int) bool {
		args := sys.Cmdline(pid)
		_, _, named := parseName(s.h.nameIn(args))
		return !s.isOf(args) && (named || s.uid == 0)
	}), err
}

// any opens the first process that can be the VMM, nil when none can.
func (s search) any(pids []int) (Process, error) {
	for _, pid := range pids {
		p, err := s.open(pid)
		if err == nil {
			return p, nil
		}
		if _, lacks := sys.Fault(err); lacks {
			return nil, mvm.Errorf(mvm.KindUnavailable, "look for the VMM of %s: %w", s.name.ID, err)
		}
	}
	return nil, nil
}

// open takes hold of the process if it can be the VMM: by what a process without rights
// can't change, which its name and its arguments are not.
func (s search) open(pid int) (p local, err error) {
	if pid <= 0 {
		return p, sys.ErrNoProcess
	}
	held, err := sys.OpenProcess(pid)
	if err != nil {
		return p, err
	}
	if !s.canBe(pid) {
		held.Close()
		return p, sys.ErrNoProcess
	}
	return local{held, s.cgroups(), nil}, nil
}

func (s search) canBe(pid int) bool {
	user, err := sys.UserOf(pid)
	if err != nil || !s.h.bounds.user(user, s.name, s.uid) {
		return false
	}
	for _, name := range sys.CgroupNames(pid) {
		if isCgroupName(name) {
			return slices.Contains(s.cgroups(), name)
		}
	}
	_, mark, named := parseName(s.h.nameIn(sys.Cmdline(pid))) // for want of better
	return s.uid != 0 || !named || mark == s.mark || mark == ""
}

// List is described at Host.
func (h *Local) List(_ context.Context, root string) ([]Name, error) {
	if !h.bounds.holds(root) {
		return nil, nil // none of this host's are there
	}
	own, err := h.mark()
	if err != nil {
		return nil, err
	}
	pids, err := sys.FindProcesses(h.program, func(user int) bool { return user != 0 })
	var names []Name
	for _, pid := range pids {
		n, mark, ok := parseName(h.nameIn(sys.Cmdline(pid)))
		if ok && mark == own && filepath.Dir(n.RunDir) == root && h.bounds.name(n) == nil && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, err
}

// Survey is described at Host.
func (h *Local) Survey(context.Context) (s Survey, err error) {
	if s.Users, err = sys.UsersOfProcesses(h.bounds.anyUser); err != nil {
		return Survey{}, mvm.Errorf(mvm.KindInternal, "list the processes of instances: %w", err)
	}
	names, err := sys.CgroupsHere()
	if err != nil {
		return Survey{}, mvm.Errorf(mvm.KindInternal, "list the cgroups of instances: %w", err)
	}
	for _, name := range names {
		if isCgroupName(name) {
			s.Cgroups = append(s.Cgroups, idOfCgroup(name))
		}
	}
	slices.Sort(s.Cgroups)
	s.Cgroups = slices.Compact(s.Cgroups)
	return s, nil
}

// Leave is described at Host. Only a folder of the name's goes.
func (h *Local) Leave(_ context.Context, n Name, _ string, cgroups []string) error {
	if err := h.bounds.name(n); err != nil {
		return err
	}
	mark, err := h.mark()
	if err != nil {
		return err
	}
	names := search{name: n, mark: mark}.cgroups()
	dirs := foldersOf(names) // what the caller knows of them may be lost
	for _, dir := range cgroups {
		if slices.Contains(names, filepath.Base(dir)) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return errors.Join(sys.KillCgroup(dirs), sys.LeaveCgroup(dirs))
}

// foldersOf are the folders of the cgroups. A host may have none.
func foldersOf(cgroups []string) []string {
	var dirs []string
	for _, name := range cgroups {
		own, _ := sys.CgroupDirs(name)
		dirs = append(dirs, own...)
	}
	return dirs
}

// local is a process of this host.
type local struct {
	*sys.Process
	cgroups []string // names
	guard   *jail.Guard
}

// Refused is described at Process.
func (p local) Refused() string { return p.guard.Refused() }

// Stats is described at Process.
func (p local) Stats() (sys.ProcessStats, error) {
	s, err := p.Process.Stats()
	for _, name := range p.cgroups {
		s.Throttled = max(s.Throttled, sys.CgroupThrottled(name))
	}
	return s, err
}

// LimitCPU is described at Process.
func (p local) LimitCPU(_ context.Context, c CPU) error {
	if err := c.Check(); err != nil {
		return err
	}
	if err := sys.CPUBound(""); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "limit the CPU time of the VMM: %w", err)
	}
	err := error(mvm.Errorf(mvm.KindInvalid, "it is in no cgroup of its own"))
	for _, name := range p.cgroups {
		if slices.Contains(sys.CgroupProcesses(name), p.PID) {
			err = sys.LimitCgroup("", name, sys.CgroupLimits{CPUWeight: c.Weight, CPUMilli: c.Milli})
		}
	}
	return mvm.Explain("limit the CPU time of the VMM", err)
}

// Close is described at Process.
func (p local) Close() error { return errors.Join(p.guard.Close(), p.Process.Close()) }

func (p local) ID() (int, uint64) { return p.PID, p.Start }

// Kill ends the process, and whatever else is in the VMM's cgroup. Where the process is
// gone the cgroup may be the next one's: then Leave is who ends what is in it.
func (p local) Kill(context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return sys.SignalCgroup(foldersOf(p.cgroups))
}
