package oci

import (
	"fmt"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of the process that unpacks layers.
const (
	childMemory  = 3 << 30 // of which Go's collector knows
	childCPUSecs = 3600
)

// confine takes from this process all that it does not need to read its open files, to
// compute, and to write its open files: it can open no file, reach no network, start no
// program and signal nobody else. What layers make of it harms nobody.
func confine(maxFile uint64) error {
	debug.SetMemoryLimit(childMemory / 2)
	for _, l := range []struct {
		what  int
		limit uint64
	}{{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, maxFile}, {unix.RLIMIT_CPU, childCPUSecs}, {unix.RLIMIT_DATA, childMemory}} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("bound the process: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	return filter(allowedCalls())
}

// allowedCalls are the system calls that Go's runtime and the work on open files need.
func allowedCalls() []uint32 {
	return []uint32{
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_LSEEK, unix.SYS_FSTAT, unix.SYS_FTRUNCATE, unix.SYS_CLOSE,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_MREMAP,
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_RESTART_SYSCALL,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_FCNTL, unix.SYS_GETRANDOM,
		unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	}
}

// Offsets into the kernel's struct seccomp_data, and what a filter returns.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
	dataArg1   = 24

	auditX86_64 = 0xc000003e
	x32Bit      = 0x40000000

	retAllow = 0x7fff0000
	retKill  = 0x80000000
	retError = 0x00050000
)

// filter lets every thread of the process make these system calls. It may also start
// threads, and signal its own: Go interrupts them so. Every other call fails, with ENOSYS if it
// is clone3, with EPERM if not, and one of another architecture ends the process.
func filter(calls []uint32) error {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	jump := func(kind uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | kind | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	const refuse = retError | uint32(unix.EPERM)
	prog := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, auditX86_64, 1, 0), ret(retKill),
		load(dataNumber), jump(unix.BPF_JGE, x32Bit, 0, 1), ret(retKill),
		// A new thread, not a process.
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4), load(dataArg0), jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 1), ret(retAllow), ret(refuse),
		// Its flags are in memory, which a filter can't read. C libraries do without where it is not there.
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), ret(retError | uint32(unix.ENOSYS)),
		// A signal to a thread of this process.
		jump(unix.BPF_JEQ, unix.SYS_TGKILL, 0, 4), load(dataArg0), jump(unix.BPF_JEQ, uint32(os.Getpid()), 0, 1), ret(retAllow), ret(refuse),
	}
	for _, c := range calls {
		prog = append(prog, jump(unix.BPF_JEQ, c, 0, 1), ret(retAllow))
	}
	prog = append(prog, ret(refuse))
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}
