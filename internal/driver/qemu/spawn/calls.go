package spawn

import (
	_ "embed"
	"strings"

	"golang.org/x/sys/unix"

	"mvm/internal/jail"
)

// callList has a line for each system call that QEMU makes, whatever its arguments: the
// call, and the versions in which it was seen. `make vmm-syscalls` makes it anew for the
// version that is installed. "manual" are those that no run here shows, see docs/jail.md.
//
//go:embed calls.txt
var callList string

// Calls of which the arguments count.
const (
	cloneThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	cloneNew    = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// How a file may be opened: to be read, or to be written where it is. Nothing is made,
	// and the root has nothing that can be written but what the VMM has open already.
	openMask = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC | unix.O_TMPFILE&^unix.O_DIRECTORY
)

// calls are the system calls that the VMM may make.
func (l Launch) calls() jail.Calls {
	c := jail.Calls{Names: listed()}
	opens := []jail.Value{{Mask: openMask, Bits: unix.O_RDONLY}, {Mask: openMask, Bits: unix.O_RDWR}}
	c.If = []jail.Condition{
		l.ioctls(),
		{Call: "clone", Values: []jail.Value{{Mask: cloneThread | cloneNew, Bits: cloneThread}}},
		{Call: "clone3", Else: unix.ENOSYS}, // its flags can't be looked at; glibc then calls clone
		{Call: "openat", Arg: 2, Values: opens},
		{Call: "open", Arg: 1, Values: opens},
		{Call: "fcntl", Arg: 1, Values: jail.Exactly(unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD, unix.F_DUPFD_CLOEXEC,
			unix.F_GETLK, unix.F_SETLK, unix.F_OFD_GETLK, unix.F_OFD_SETLK, unix.F_ADD_SEALS, unix.F_GET_SEALS), Else: unix.EINVAL},
		{Call: "prctl", Values: jail.Exactly(unix.PR_SET_NAME, unix.PR_SET_NO_NEW_PRIVS, unix.PR_SET_SECCOMP, unix.PR_GET_SECCOMP, unix.PR_SET_TIMERSLACK,
			unix.PR_CAPBSET_READ, unix.PR_SET_VMA, unix.PR_GET_DUMPABLE), Else: unix.EINVAL},
		{Call: "unlink", Else: unix.EACCES}, // of its sockets, when it ends: they are the agent's
		// What it tries and goes on without.
		{Call: "io_uring_setup", Else: unix.ENOSYS},
		{Call: "set_mempolicy", Else: unix.ENOSYS},
		{Call: "get_mempolicy", Else: unix.ENOSYS},
		{Call: "mbind", Else: unix.ENOSYS},
	}
	return c
}

// listed are the calls of the list.
func listed() []string {
	var names []string
	for line := range strings.Lines(callList) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
	}
	return names
}

// ioctls are those of TAPs and files, and with KVM all of its own.
func (l Launch) ioctls() jail.Condition {
	c := jail.Condition{Call: "ioctl", Arg: 1, Else: unix.ENOTTY, Values: jail.Exactly(unix.TUNGETIFF, unix.TUNGETFEATURES, unix.TUNSETOFFLOAD,
		unix.TUNSETVNETHDRSZ, unix.TUNGETVNETHDRSZ, unix.TUNSETSNDBUF, unix.TUNSETVNETLE)}
	if l.Accel == AccelKVM {
		c.Values = append([]jail.Value{{Mask: 0xff00, Bits: kvmType << 8}}, c.Values...) // the one that is made all the time comes first
	}
	return c
}

// kvmType is in all ioctls of KVM.
const kvmType = 0xAE
