package sys

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoProcess says that there is no such process (any more).
var ErrNoProcess = errors.New("no such process")

// Process is a hold on one process, child or not, that cannot be mistaken for
// another one that gets its number later. Its methods may be called from many
// goroutines.
type Process struct {
	PID   int
	Start uint64 // start time in clock ticks since the host's boot
	fd    *os.File
	raw   syscall.RawConn
}

// OpenProcess takes hold of the process with the number. A zombie counts as gone,
// and is reaped when it is a child of ours. A process whose main thread has exited
// shows as a zombie too, and lives for as long as another thread of it does.
func OpenProcess(pid int) (*Process, error) { return openProcess(pid, true) }

// openProcess is OpenProcess, which leaves a zombie to who waits for it where it is not to reap.
func openProcess(pid int, reaps bool) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = ErrNoProcess
		}
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	p := &Process{PID: pid, fd: f}
	if p.raw, err = f.SyscallConn(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	st, err := readStat(pid)
	if _, lacks := Fault(err); lacks {
		return nil, errors.Join(err, f.Close())
	}
	if err != nil || ended(fd) { // the number may have gone to another between the two
		if reaps {
			reap(fd)
		}
		f.Close()
		return nil, fmt.Errorf("open process %d: %w", pid, ErrNoProcess)
	}
	p.Start = st.start
	return p, nil
}

// AdoptProcess takes hold of the process of a pidfd that another process has handed
// on, with what that one knows of it. It takes the file over.
func AdoptProcess(f *os.File, pid int, start uint64) (*Process, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adopt process %d: %w", pid, err), f.Close())
	}
	return &Process{PID: pid, Start: start, fd: f, raw: raw}, nil
}

// File returns a pidfd that is the caller's, to hand on.
func (p *Process) File() (*os.File, error) {
	var fd int
	var err error
	cerr := p.raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("share process %d: %w", p.PID, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Signal sends the signal; ErrNoProcess when the process is gone.
func (p *Process) Signal(sig syscall.Signal) error {
	var err error
	cerr := p.raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		err = ErrNoProcess
	}
	return errors.Join(cerr, err)
}

// Wait waits until the process has ended, and reaps it when it is a child of
// ours. known says whether the status could be had, which only a parent can.
// Interrupt or Close end a Wait with os.ErrDeadlineExceeded or os.ErrClosed.
func (p *Process) Wait() (code int, sig syscall.Signal, known bool, err error) {
	werr := p.raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if werr != nil {
		return 0, 0, false, fmt.Errorf("wait for process %d: %w", p.PID, werr)
	}
	cerr := p.raw.Control(func(fd uintptr) { code, sig, known = reap(int(fd)) })
	return code, sig, known, cerr
}

// ended reports whether all threads of the process are gone, which is when the kernel
// makes its pidfd readable.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// reap takes the exit status of an ended child.
func reap(pidfd int) (code int, sig syscall.Signal, ok bool) {
	// siginfo_t of SIGCHLD on 64-bit Linux: signo, errno, code, pad, pid, uid, status.
	var info struct {
		Signo, Errno, Code, pad int32
		PID, UID, Status        int32
		rest                    [100]byte
	}
	err := unix.Waitid(unix.P_PIDFD, pidfd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG, nil)
	if err != nil || info.PID == 0 {
		return 0, 0, false
	}
	const cldExited = 1
	if info.Code == cldExited {
		return int(info.Status), 0, true
	}
	return 0, syscall.Signal(info.Status), true
}

// Interrupt ends a Wait under way and every later one.
func (p *Process) Interrupt() { p.fd.SetReadDeadline(time.Unix(1, 0)) }

// Close lets go of the process.
func (p *Process) Close() error { return p.fd.Close() }

// ProcessStats are measures of one process.
type ProcessStats struct {
	CPU time.Duration
	RSS int64
	// Throttled is how long it wanted CPU time that its cgroup may not have. Who knows the
	// cgroup sets it.
	Throttled time.Duration
}

// Stats measures the process.
func (p *Process) Stats() (ProcessStats, error) {
	st, err := readStat(p.PID)
	if err != nil {
		return ProcessStats{}, err
	}
	if st.start != p.Start {
		return ProcessStats{}, fmt.Errorf("measure process %d: %w", p.PID, ErrNoProcess)
	}
	const tick = time.Second / 100 // USER_HZ, fixed in the kernel's interface
	return ProcessStats{CPU: time.Duration(st.utime+st.stime) * tick, RSS: st.rss * int64(os.Getpagesize())}, nil
}

type stat struct {
	utime, stime uint64
	start        uint64
	rss          int64
}

// readStat parses /proc/PID/stat, whose second field may contain anything.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if _, lacks := Fault(err); lacks {
		return stat{}, fmt.Errorf("measure process %d: %w", pid, err)
	}
	if err != nil {
		return stat{}, fmt.Errorf("measure process %d: %w", pid, ErrNoProcess)
	}
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 22 {
		return stat{}, fmt.Errorf("parse /proc/%d/stat: %d fields", pid, len(f))
	}
	var st stat
	var errs [4]error
	st.utime, errs[0] = strconv.ParseUint(f[11], 10, 64)
	st.stime, errs[1] = strconv.ParseUint(f[12], 10, 64)
	st.start, errs[2] = strconv.ParseUint(f[19], 10, 64)
	st.rss, errs[3] = strconv.ParseInt(f[21], 10, 64)
	return st, errors.Join(errs[:]...)
}

// threads are the folders in /proc of the process and of each of its threads: what the
// main thread no longer shows once it has exited, another one does.
func threads(pid int) iter.Seq[string] {
	return func(yield func(string) bool) {
		main := fmt.Sprintf("/proc/%d", pid)
		if !yield(main) {
			return
		}
		all, _ := os.ReadDir(main + "/task") // it may end meanwhile
		for _, e := range all {
			if !yield(filepath.Join(main, "task", e.Name())) {
				return
			}
		}
	}
}

// Cmdline returns the arguments of the process, nil when it is gone. The process can
// write whatever it likes there.
func Cmdline(pid int) []string {
	for dir := range threads(pid) {
		if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
			return strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
		}
	}
	return nil
}

// Runs reports whether the process runs the program (the path that /proc/PID/exe
// shows, which takes the rights of its user), replaced since or not.
func Runs(pid int, exe string) bool {
	for dir := range threads(pid) {
		if target, err := os.Readlink(dir + "/exe"); err == nil {
			return strings.TrimSuffix(target, " (deleted)") == exe
		}
	}
	return false
}

// UserOf returns the effective user of the process, which it can't change without
// rights: of a /proc/PID that is the owner, whatever state the process is in.
func UserOf(pid int) (uid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, ErrNoProcess)
	}
	return int(st.Uid), nil
}

// UsersOfProcesses returns the users that match and have a process, each once.
func UsersOfProcesses(match func(uid int) bool) ([]int, error) {
	seen := map[int]bool{}
	err := eachProcess(func(_, uid int) {
		if match(uid) {
			seen[uid] = true
		}
	})
	return slices.Sorted(maps.Keys(seen)), err
}

// eachProcess calls fn with the number and user of each process.
func eachProcess(fn func(pid, uid int)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if uid, err := UserOf(pid); err == nil {
			fn(pid, uid)
		}
	}
	return nil
}

// FindProcesses returns the numbers of the processes of users that match and that run
// the program (the path that /proc/PID/exe shows).
func FindProcesses(exe string, user func(uid int) bool) (pids []int, err error) {
	err = eachProcess(func(pid, uid int) {
		if user(uid) && Runs(pid, exe) {
			pids = append(pids, pid)
		}
	})
	return pids, err
}
