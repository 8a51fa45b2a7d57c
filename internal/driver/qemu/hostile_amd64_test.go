package qemu_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/driver"
	"mvm/internal/jail"
	"mvm/internal/sys"
	"mvm/internal/testenv"
	"mvm/internal/testenv/inject"
)

// A VMM that was taken over makes system calls of its attacker's choice, with nobody there
// to end it for them. Each is refused. Without the walls many are not.
func TestHostileCalls(t *testing.T) { hostileCalls(t, false) }

// TestHostileCallsThroughHostd is the same where the agent has no rights.
func TestHostileCallsThroughHostd(t *testing.T) { hostileCalls(t, true) }

// The end of a VMM that its filter ended is told with the call; that of one that QEMU's own
// filter ended with where the call is written.
func TestRefusedCallIsNamed(t *testing.T) {
	for _, hostd := range []bool{false, true} {
		h := newHost(t)
		h.hostd = hostd
		d := h.driver(t)
		for want, c := range map[string]hostile{
			"system call socket(0x10),":          one("", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0),
			"system call openat(flags=0x41),":    one("", unix.SYS_OPENAT, -100&0xffffffff, "/made", unix.O_CREAT|unix.O_WRONLY, 0o600),
			"QEMU's own seccomp filter (SIGSYS)": one("", unix.SYS_FORK),
		} {
			v := start(t, d, h.spec(t, "i-0000d0bd"))
			if err := inject.Into(v.PID(), v.PID(), c.do); !errors.Is(err, inject.ErrEnded) {
				t.Errorf("%s: %v, want it ended", want, err)
			}
			select {
			case <-v.Done():
			case <-time.After(patience):
				t.Fatalf("%s: its end is not seen", want)
			}
			if e := v.Exit(); !strings.Contains(e.Detail, want) {
				t.Errorf("through hostd: %v: it ended with %+v, want %q", hostd, e, want)
			}
			must(t, v.Close())
		}
	}
}

// A VMM that was taken over says more than its log holds. It fills neither the run folder nor
// the agent's memory, and runs on; what it says at its end is told, within bounds.
func TestVMMThatFloodsItsLog(t *testing.T) {
	for _, hostd := range []bool{false, true} {
		h := newHost(t)
		h.hostd = hostd
		d, spec := h.driver(t), h.spec(t, "i-0000d0be")
		v := start(t, d, spec)
		block := bytes.Repeat([]byte("I was taken over\n"), 150)
		must(t, inject.Into(v.PID(), v.PID(), func(th *inject.Thread) error {
			for range 500 {
				for _, fd := range []int{1, 2} {
					if _, err := th.Call(unix.SYS_WRITE, fd, block, len(block)); err != nil && !errors.Is(err, syscall.EAGAIN) {
						return err
					}
				}
			}
			return nil
		}))
		var bytes int64
		must(t, sys.InFolder(spec.RunDir, func(f *sys.Folder) error { bytes = f.Bytes(); return nil }))
		if bytes > 64<<10 {
			t.Errorf("through hostd: %v: its run folder has %d bytes", hostd, bytes)
		}
		ping(t, v)
		if _, err := v.Stats(t.Context()); err != nil { // what an agent asks now and then makes room
			t.Error(err)
		}
		must(t, inject.Into(v.PID(), v.PID(), one("", unix.SYS_WRITE, 2, []byte("farewell\n"), 9).do))
		must(t, syscall.Kill(v.PID(), syscall.SIGKILL))
		<-v.Done()
		if e := v.Exit(); !strings.HasSuffix(e.Detail, "farewell") || len(e.Detail) > 2048 {
			t.Errorf("through hostd: %v: it ended with %.4000q", hostd, e.Detail)
		}
		must(t, v.Close())
	}
}

// hostile is a system call that an attacker tries.
type hostile struct {
	name string
	do   func(*inject.Thread) error
}

func hostileCalls(t *testing.T, hostd bool) {
	jailed := newPrisoner(t, "i-0000d0bb", hostd, walls())
	var plain *prisoner // once is enough
	if !hostd {
		plain = newPrisoner(t, "i-0000d0bc", hostd, jail.Jail{})
	}
	calls := hostileList(t)
	if len(calls) < 60 {
		t.Errorf("%d calls, want at least 60", len(calls))
	}
	could := 0
	var table []string
	for _, c := range calls {
		err := jailed.try(c)
		if err == nil {
			t.Errorf("%s: it could", c.name)
		}
		line := fmt.Sprintf("%-44s %-28s", c.name, outcome(err))
		if plain != nil {
			without := plain.try(c)
			if without == nil {
				could++
			}
			line += " " + outcome(without)
		}
		table = append(table, line)
	}
	t.Logf("%d calls, in the jail and without:\n%s", len(calls), strings.Join(table, "\n"))
	if plain != nil && could < 20 {
		t.Errorf("%d of them are allowed without the walls: the list shows too little", could)
	}
}

func outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "DONE"
	case errors.Is(err, inject.ErrEnded):
		return "ended"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// prisoner is a VMM that is replaced when a call has ended it.
type prisoner struct {
	t    *testing.T
	h    *host
	d    driver.Driver
	spec driver.Spec
	pid  int
}

func newPrisoner(t *testing.T, id string, hostd bool, j jail.Jail) *prisoner {
	t.Helper()
	h := newHost(t)
	h.jail = j
	p := &prisoner{t: t, h: h, d: h.driver(t), spec: h.spec(t, id)}
	h.hostd = hostd
	t.Cleanup(func() { must(t, p.d.Destroy(context.Background(), p.spec)) })
	p.start()
	return p
}

// start starts the VMM, and lets go of it, as an agent and a hostd do that end.
func (p *prisoner) start() {
	p.t.Helper()
	p.t.Run("start", func(t *testing.T) {
		p.h.vmms = nil
		v, err := p.h.driver(t).Start(t.Context(), p.spec)
		must(t, err)
		p.pid = v.PID()
		must(t, v.Close())
	})
}

func (p *prisoner) try(c hostile) error {
	p.t.Helper()
	err := inject.Into(p.pid, p.pid, c.do)
	if errors.Is(err, inject.ErrEnded) {
		must(p.t, p.d.Destroy(p.t.Context(), p.spec))
		p.start()
	}
	return err
}

// hostileList are calls on files, sockets of every family, other processes, rights,
// namespaces, keys, devices, and parts of the kernel that no VMM needs.
func hostileList(t *testing.T) []hostile {
	dir := testenv.Dir(t)
	must(t, os.Chmod(dir, 0o777))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("of the host"), 0o666))
	must(t, os.Chmod(file, 0o666))
	ln, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	must(t, os.Chmod(filepath.Join(dir, "socket"), 0o777))
	other := testenv.Sleeper(t, uid)
	var all []hostile
	add := func(name string, nr uint64, args ...any) { all = append(all, one(name, nr, args...)) }
	open := func(path string, flags int) {
		add(fmt.Sprintf("open %s, flags %#x", strings.ReplaceAll(path, dir, "DIR"), flags), unix.SYS_OPEN, path, flags, 0o666)
	}
	const at = -100 & 0xffffffff // AT_FDCWD
	for _, p := range []string{"/etc/passwd", "/etc/shadow", "/tmp", "/sys/kernel", "/sys/fs/cgroup", "/proc/2/environ", "/proc/sys/kernel/hostname", "/proc/kallsyms",
		fmt.Sprintf("/proc/%d/mem", other), fmt.Sprintf("/proc/%d/root", other), "/dev/mem", "/dev/kmsg", "/dev/net/tun", "/dev/fuse", file} {
		open(p, unix.O_RDONLY)
	}
	open(file, unix.O_WRONLY)
	open(file, unix.O_RDWR)
	open(file, unix.O_WRONLY|unix.O_TRUNC)
	open(filepath.Join(dir, "made"), unix.O_CREAT|unix.O_WRONLY)
	open("/made", unix.O_CREAT|unix.O_RDWR)
	open(dir, unix.O_TMPFILE|unix.O_RDWR)
	open("/sys/fs/cgroup/memory/cgroup.procs", unix.O_WRONLY)
	add("openat2", unix.SYS_OPENAT2, at, file, make([]byte, 24), 24)
	add("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, at, "/", binary.LittleEndian.AppendUint32(nil, 128), make([]byte, 4), 0)
	add("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, make([]byte, 64), 0)
	add("unlink", unix.SYS_UNLINK, filepath.Join(dir, "none"))
	add("mkdir", unix.SYS_MKDIR, filepath.Join(dir, "folder"), 0o777)
	add("symlink", unix.SYS_SYMLINK, file, filepath.Join(dir, "link"))
	add("link", unix.SYS_LINK, file, filepath.Join(dir, "hard"))
	add("rename", unix.SYS_RENAME, filepath.Join(dir, "folder"), filepath.Join(dir, "renamed"))
	add("mknod", unix.SYS_MKNOD, filepath.Join(dir, "fifo"), unix.S_IFIFO|0o666, 0)
	add("truncate", unix.SYS_TRUNCATE, file, 3)
	add("chmod", unix.SYS_CHMOD, file, 0o666)
	add("chown", unix.SYS_CHOWN, file, uid, uid)
	add("utimensat", unix.SYS_UTIMENSAT, at, file, 0, 0)
	add("chdir", unix.SYS_CHDIR, dir)
	add("fchmod of an open file", unix.SYS_FCHMOD, 2, 0o4777)
	add("statfs of the host", unix.SYS_STATFS, dir, make([]byte, 256))
	add("inotify_init1", unix.SYS_INOTIFY_INIT1, 0)
	add("fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0)
	for name, family := range map[string]int{"inet": unix.AF_INET, "inet6": unix.AF_INET6, "unix": unix.AF_UNIX, "netlink": unix.AF_NETLINK, "packet": unix.AF_PACKET,
		"vsock": unix.AF_VSOCK, "alg": unix.AF_ALG, "key": unix.AF_KEY, "xdp": unix.AF_XDP} {
		kind := unix.SOCK_DGRAM
		switch family {
		case unix.AF_NETLINK, unix.AF_PACKET, unix.AF_KEY, unix.AF_XDP:
			kind = unix.SOCK_RAW
		case unix.AF_ALG:
			kind = unix.SOCK_SEQPACKET
		}
		add("socket "+name, unix.SYS_SOCKET, family, kind, 0)
	}
	add("socketpair", unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0, make([]byte, 8))
	add("bind", unix.SYS_BIND, 5, make([]byte, 16), 16)
	all = append(all, hostile{"connect to the host's socket", func(th *inject.Thread) error {
		fd, err := th.Call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			addr := append(append(binary.LittleEndian.AppendUint16(nil, unix.AF_UNIX), filepath.Join(dir, "socket")...), 0)
			_, err = th.Call(unix.SYS_CONNECT, fd, addr, len(addr))
		}
		return err
	}})
	return append(append(all, hostileToOthers(other)...), hostileToKernel()...)
}

func one(name string, nr uint64, args ...any) hostile {
	return hostile{name, func(th *inject.Thread) error { _, err := th.Call(nr, args...); return err }}
}

// hostileToOthers are calls on other processes, of its own user.
func hostileToOthers(pid int) []hostile {
	all := []hostile{
		one("kill", unix.SYS_KILL, pid, 0),
		one("tgkill another", unix.SYS_TGKILL, pid, pid, 0),
		one("ptrace", unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid, 0, 0),
		one("pidfd_open", unix.SYS_PIDFD_OPEN, pid, 0),
		one("pidfd_getfd", unix.SYS_PIDFD_GETFD, 3, 3, 0),
		one("process_madvise", unix.SYS_PROCESS_MADVISE, 3, 0, 0, 0, 0),
		one("kcmp", unix.SYS_KCMP, pid, pid, 0, 0, 0),
		one("prlimit64 of another", unix.SYS_PRLIMIT64, pid, unix.RLIMIT_NOFILE, 0, make([]byte, 16)),
		one("sched_setaffinity of another", unix.SYS_SCHED_SETAFFINITY, pid, 8, []byte{1, 0, 0, 0, 0, 0, 0, 0}),
		one("setpriority of another", unix.SYS_SETPRIORITY, 0, pid, 5),
		one("move_pages of another", unix.SYS_MOVE_PAGES, pid, 0, 0, 0, 0, 0),
		one("fork", unix.SYS_FORK), one("vfork", unix.SYS_VFORK),
		one("clone, a process", unix.SYS_CLONE, int(unix.SIGCHLD), 0, 0, 0, 0),
		one("clone, a user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER|int(unix.SIGCHLD), 0, 0, 0, 0),
		one("execve", unix.SYS_EXECVE, "/bin/sh", 0, 0),
		one("execveat", unix.SYS_EXECVEAT, 0, "/bin/sh", 0, 0, 0),
		one("unshare, a user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		one("unshare, files", unix.SYS_UNSHARE, unix.CLONE_FILES),
		one("setns", unix.SYS_SETNS, 0, 0),
		one("setuid 0", unix.SYS_SETUID, 0), one("setgid 0", unix.SYS_SETGID, 0),
		one("setresuid 0", unix.SYS_SETRESUID, 0, 0, 0),
		one("setgroups", unix.SYS_SETGROUPS, 0, 0),
		one("capset", unix.SYS_CAPSET, binary.LittleEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3), words(^uint64(0), ^uint64(0), ^uint64(0))),
		one("a segment of System V", unix.SYS_SHMGET, 0x6d766d, 4096, unix.IPC_CREAT|0o666),
		one("a queue of System V", unix.SYS_MSGGET, 0x6d766d, unix.IPC_CREAT|0o666),
		one("a queue of POSIX", unix.SYS_MQ_OPEN, "mvm-hostile", unix.O_CREAT|unix.O_RDWR, 0o600, 0),
	}
	return append(all, hostile{"process_vm_readv", func(th *inject.Thread) error {
		at, err := th.Put(make([]byte, 64))
		if err == nil {
			_, err = th.Call(unix.SYS_PROCESS_VM_READV, pid, words(at, 64), 1, words(0x400000, 64), 1, 0)
		}
		return err
	}})
}

func words(all ...uint64) []byte {
	var b []byte
	for _, w := range all {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// hostileToKernel are calls of parts of the kernel that no VMM needs.
func hostileToKernel() []hostile {
	return []hostile{
		one("io_uring_setup", unix.SYS_IO_URING_SETUP, 4, make([]byte, 120)),
		one("bpf", unix.SYS_BPF, 0, make([]byte, 120), 120),
		one("userfaultfd", unix.SYS_USERFAULTFD, 1),
		one("perf_event_open", unix.SYS_PERF_EVENT_OPEN, binary.LittleEndian.AppendUint32(append(words(1)[:4], 112, 0, 0, 0), 0), 0, -1&0xffffffff, -1&0xffffffff, 0),
		one("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_USER_KEYRING&0xffffffff, 1),
		one("add_key", unix.SYS_ADD_KEY, "user", "mvm-hostile", "x", 1, unix.KEY_SPEC_PROCESS_KEYRING&0xffffffff),
		one("request_key", unix.SYS_REQUEST_KEY, "user", "mvm-hostile", 0, 0),
		one("mount", unix.SYS_MOUNT, "x", "/tmp", "tmpfs", 0, 0), one("umount2", unix.SYS_UMOUNT2, "/proc", 2),
		one("pivot_root", unix.SYS_PIVOT_ROOT, ".", "."), one("chroot", unix.SYS_CHROOT, "/"),
		one("fsopen", unix.SYS_FSOPEN, "tmpfs", 0), one("open_tree", unix.SYS_OPEN_TREE, -100&0xffffffff, "/", 1),
		one("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1),
		one("memfd_secret", unix.SYS_MEMFD_SECRET, 0),
		one("personality", unix.SYS_PERSONALITY, 0xffffffff), one("modify_ldt", unix.SYS_MODIFY_LDT, 0, 0, 0),
		one("ioperm", unix.SYS_IOPERM, 0, 1, 1), one("iopl", unix.SYS_IOPL, 3),
		one("init_module", unix.SYS_INIT_MODULE, 0, 0, ""), one("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		one("reboot", unix.SYS_REBOOT, 0, 0, 0, 0), one("syslog", unix.SYS_SYSLOG, 10, 0, 0), one("acct", unix.SYS_ACCT, 0),
		one("quotactl", unix.SYS_QUOTACTL, 0, 0, 0, 0), one("swapoff", unix.SYS_SWAPOFF, "/x"),
		one("sethostname", unix.SYS_SETHOSTNAME, "x", 1), one("settimeofday", unix.SYS_SETTIMEOFDAY, 0, 0), one("adjtimex", unix.SYS_ADJTIMEX, make([]byte, 208)),
		one("vmsplice", unix.SYS_VMSPLICE, 1, 0, 0, 0), one("remap_file_pages", unix.SYS_REMAP_FILE_PAGES, 0, 0, 0, 0, 0),
		one("ioctl TIOCSTI", unix.SYS_IOCTL, 0, unix.TIOCSTI, "x"), one("ioctl TUNSETIFF", unix.SYS_IOCTL, 0, unix.TUNSETIFF, make([]byte, 40)),
		one("prctl PR_SET_MM", unix.SYS_PRCTL, unix.PR_SET_MM, 1, 0, 0, 0), one("prctl PR_SET_DUMPABLE", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0),
		one("fcntl F_SETOWN", unix.SYS_FCNTL, 2, unix.F_SETOWN, 1), one("fcntl F_NOTIFY", unix.SYS_FCNTL, 2, 1026, 1), one("fcntl F_SETPIPE_SZ of its log", unix.SYS_FCNTL, 2, unix.F_SETPIPE_SZ, 1<<20),
		one("a call of the 32-bit table", 0x40000000+unix.SYS_GETPID), one("a call that there is not", 2000),
	}
}
