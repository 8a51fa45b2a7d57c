package spawn

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// Options configure a Local.
type Options struct {
	// Binary is QEMU's name or path; "" is qemu-system-x86_64.
	Binary string
	// Bounds are what it takes on.
	Bounds Bounds
	// Bounded refuses to run a VMM whose memory and processes can't be bounded, as
	// production mode wants it.
	Bounded bool
	// Mark returns what the VMMs that it starts carry, so that they are told from those
	// of other owners on this host; nil: they carry nothing. It finds those of the mark,
	// and by name alone those of an older mvm, which carry none.
	Mark func() (string, error)
	Log  *slog.Logger // nil: log nothing
}

// Local is the Host of a process that has the rights itself.
type Local struct {
	bounds  Bounds
	bounded bool
	mark    func() (string, error)
	binary  string // absolute, as /proc/PID/exe shows it
	log     *slog.Logger
	enter   func(name string, pid int, lim sys.CgroupLimits) ([]string, error) // sys.EnterCgroup, but for tests
}

var _ Host = (*Local)(nil)

// New makes a Local. KindUnavailable when QEMU is not installed. It starts nothing.
func New(o Options) (*Local, error) {
	binary, err := Binary(o.Binary)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Mark == nil {
		o.Mark = func() (string, error) { return "", nil }
	}
	return &Local{bounds: o.Bounds, bounded: o.Bounded, mark: o.Mark, binary: binary, log: o.Log, enter: sys.EnterCgroup}, nil
}

// Binary finds QEMU by its name or path, "" for the usual one, and returns its path
// without symbolic links.
func Binary(name string) (string, error) {
	if name == "" {
		name = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "find QEMU: %w", err).WithFix("apt-get install qemu-system-x86")
	}
	return path, nil
}

// Launch is described at Host.
func (h *Local) Launch(ctx context.Context, l Launch) (Process, []string, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, mvm.Errorf(mvm.KindCanceled, "start the VMM of %s: %w", l.ID, context.Cause(ctx))
	}
	if err := errors.Join(l.Check(), h.bounds.launch(l)); err != nil {
		return nil, nil, err
	}
	if err := l.checkFiles(); err != nil {
		return nil, nil, err
	}
	mark, err := h.mark()
	if err != nil {
		return nil, nil, err
	}
	l.Mark = mark
	if err := l.give(); err != nil {
		return nil, nil, mvm.Errorf(mvm.KindInternal, "give the memory file to user %d: %w", l.UID, err)
	}
	p, err := h.exec(l)
	if err != nil {
		return nil, nil, err
	}
	var cgroups []string
	if l.Cgroup != "" { // those that confine will make; a host without any is told there
		cgroups, _ = sys.CgroupDirs(markedCgroup(l.Name, l.Mark))
	}
	if err := h.confine(l, p.PID); err != nil {
		return nil, nil, errors.Join(err, p.Signal(syscall.SIGKILL), await(p), sys.LeaveCgroup(cgroups))
	}
	return local{p, search{name: l.Name, mark: l.Mark}.cgroups()}, cgroups, nil
}

// exec starts QEMU.
func (h *Local) exec(l Launch) (*sys.Process, error) {
	user, err := l.credential(kvmDevice)
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	defer null.Close()
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "close inherited files for the VMM: %w", err)
	}
	files, numbers := l.number([]*os.File{null, l.Files.Log, l.Files.Log})
	p, err := os.StartProcess(h.binary, append([]string{h.binary}, l.Args(numbers)...), &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin", "LANG=C"}, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: user},
	})
	if sys.NoProgram(err) {
		return nil, mvm.Errorf(mvm.KindUnavailable, "start the VMM: %w", err).WithFix("apt-get install qemu-system-x86")
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	held, err := sys.OpenProcess(p.Pid)
	if _, lacks := sys.Fault(err); lacks { // nobody else would find it to end it
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, mvm.Errorf(mvm.KindUnavailable, "take hold of the VMM: %w", err)
	}
	_ = p.Release()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: it ended at once")
	}
	return held, nil
}

// number adds the VMM's files to those that it has already, and says which number
// each gets.
func (l Launch) number(files []*os.File) ([]*os.File, Numbers) {
	pass := func(f *os.File) int {
		if f == nil {
			return 0
		}
		files = append(files, f)
		return len(files) - 1
	}
	f := l.Files
	pass(f.Lock)
	n := Numbers{Memory: pass(f.Memory), QMP: pass(f.QMP), Console: pass(f.Console), Channel: pass(f.Channel),
		Kernel: pass(f.Kernel), Initrd: pass(f.Initrd)}
	for _, d := range f.Disks {
		n.Disks = append(n.Disks, pass(d))
	}
	n.TAP = pass(f.TAP)
	return files, n
}

// await reaps a process that was killed.
func await(p *sys.Process) error {
	_, _, _, err := p.Wait()
	return errors.Join(err, p.Close())
}

// confine bounds the process as far as this host allows. It is an error only where that
// has to be all.
func (h *Local) confine(l Launch, pid int) error {
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // its memory holds secrets
	largest := uint64(l.MemMiB) << 20
	for _, disk := range l.Files.Disks {
		if st, err := disk.Stat(); err == nil {
			largest = max(largest, uint64(st.Size()))
		}
	}
	err = errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: largest, Max: largest}, nil))
	if l.Cgroup != "" {
		const overhead = (tcgCacheMiB + 512) << 20
		_, cerr := h.enter(markedCgroup(l.Name, l.Mark), pid, sys.CgroupLimits{
			MemoryBytes: int64(l.MemMiB)<<20 + overhead, PIDs: 128 + l.VCPUs})
		err = errors.Join(err, cerr)
	}
	if err != nil && h.bounded {
		return mvm.Errorf(mvm.KindPolicy, "bound the VMM of %s, which production mode wants: %w", l.ID, err).
			WithFix("see \"Bounds of VMMs\" in docs/production.md, or set weak_isolation")
	}
	if err != nil {
		h.log.Warn("the VMM runs without some of its limits", "instance", l.ID, "error", err)
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
	return []string{markedCgroup(s.name, s.mark), cgroupName(s.name)}
}

// isOf reports whether the arguments are of the VMM of the name that has the mark, or,
// started by an older mvm, none.
func (s search) isOf(args []string) bool {
	name := nameOf(args)
	return name == s.name.marked(s.mark) || name == s.name.marked("")
}

// named looks among the processes that run this QEMU: the VMM has the name, or hides
// under none with a user that is the instance's.
func (s search) named() ([]int, error) {
	pids, err := sys.FindProcesses(s.h.binary, func(user int) bool { return s.h.bounds.user(user, s.name, s.uid) })
	return slices.DeleteFunc(pids, func(pid int) bool {
		args := sys.Cmdline(pid)
		_, _, named := parseName(nameOf(args))
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
	return local{held, s.cgroups()}, nil
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
	_, mark, named := parseName(nameOf(sys.Cmdline(pid))) // for want of better
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
	pids, err := sys.FindProcesses(h.binary, func(user int) bool { return user != 0 })
	var names []Name
	for _, pid := range pids {
		n, mark, ok := parseName(nameOf(sys.Cmdline(pid)))
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
}

func (p local) ID() (int, uint64) { return p.PID, p.Start }

// Kill ends the process, and whatever else is in the VMM's cgroup. Where the process is
// gone the cgroup may be the next one's: then Leave is who ends what is in it.
func (p local) Kill(context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return sys.SignalCgroup(foldersOf(p.cgroups))
}
