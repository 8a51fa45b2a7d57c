package jail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mvm/internal/sys"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RunChild is the helper, where this process is one: it becomes the program, or exits. main
// calls it before anything else.
func RunChild() {
	if len(os.Args) != 2 || os.Args[0] != childName {
		return
	}
	runtime.LockOSThread() // walls are a thread's, until the thread becomes the program
	files, err := strconv.Atoi(os.Args[1])
	if err != nil || files < 0 {
		os.Exit(1)
	}
	unix.CloseOnExec(files)
	c := child{socket: files}
	if err := c.read(); err == nil {
		err = c.build()
		c.say(err)
	} else {
		c.say(err)
	}
	os.Exit(1)
}

// child is the helper.
type child struct {
	order
	socket int
	lacks  []Lack
}

// read reads the order: one line.
func (c *child) read() error {
	var line []byte
	buf := make([]byte, 64<<10)
	for !bytes.HasSuffix(line, []byte("\n")) {
		n, err := unix.Read(c.socket, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("read the order: %d bytes, %w", n, err)
		}
		line = append(line, buf[:n]...)
	}
	return json.Unmarshal(line, &c.order)
}

// say tells the parent what lacks, and why the program does not run.
func (c *child) say(err error) { write(uintptr(c.socket), c.answer(err)) }

func (c *child) answer(err error) []byte {
	a := answer{Lacks: c.lacks}
	if err != nil {
		a.Text = err.Error()
		errors.As(err, &a.Errno)
		var run *runError
		a.Ran = errors.As(err, &run)
	}
	b, _ := json.Marshal(a) // cannot fail
	return b
}

// build builds the walls, one after the other, and becomes the program.
func (c *child) build() error {
	for _, w := range []struct {
		wall Wall
		up   func() error
	}{
		{Network, func() error { return unix.Unshare(unix.CLONE_NEWNET) }},
		{IPC, func() error { return unix.Unshare(unix.CLONE_NEWIPC) }},
		{UTS, hostname},
		{Cgroup, func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{Mount, c.root},
		{Rlimits, c.rlimits},
		{Capabilities, func() error { return sys.DropBounding() }},
	} {
		c.raise(w.wall, w.up)
	}
	if err := c.becomeUser(); err != nil {
		return err
	}
	c.raise(Keyring, keyring)
	c.raise(Capabilities, noCapabilities)
	c.raise(Landlock, c.landlock)
	return c.execute()
}

// stands reports that the wall is one of those to be built, and does not lack yet.
func (c *child) stands(w Wall) bool {
	return slices.Contains(c.Walls, w) && !slices.ContainsFunc(c.lacks, func(l Lack) bool { return l.Wall == w })
}

// raise builds one wall, if it is one of those to be built.
func (c *child) raise(w Wall, up func() error) {
	if !c.stands(w) {
		return
	}
	if err := up(); err != nil {
		c.lacks = append(c.lacks, lack(w, "build it", err))
	}
}

// hostname is a name that tells nothing, where this process may set it: systemd's
// ProtectHostname= forbids it, and the host's name is no secret.
func hostname() error {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return err
	}
	_ = unix.Sethostname([]byte("vmm"))
	return nil
}

func (c *child) rlimits() error {
	for _, l := range c.Limits {
		if err := unix.Prlimit(0, l.Resource, &unix.Rlimit{Cur: l.Value, Max: l.Value}, nil); err != nil {
			return fmt.Errorf("limit resource %d to %d: %w", l.Resource, l.Value, err)
		}
	}
	return nil
}

// becomeUser gives up root. The calls of package syscall change all threads; this one alone
// becomes the program.
func (c *child) becomeUser() error {
	groups := make([]uint32, len(c.Groups)+1)
	for i, g := range c.Groups {
		groups[i] = uint32(g)
	}
	for _, step := range []struct {
		what    string
		nr      uintptr
		a, b, c uintptr
	}{
		{"set groups", unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(unsafe.Pointer(&groups[0])), 0},
		{"set group", unix.SYS_SETRESGID, uintptr(c.GID), uintptr(c.GID), uintptr(c.GID)},
		{"set user", unix.SYS_SETRESUID, uintptr(c.UID), uintptr(c.UID), uintptr(c.UID)},
	} {
		if _, _, errno := unix.RawSyscall(step.nr, step.a, step.b, step.c); errno != 0 {
			return fmt.Errorf("%s: %w", step.what, errno)
		}
	}
	runtime.KeepAlive(groups)
	return nil
}

// noCapabilities empties all sets of capabilities, for good.
func noCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("clear capabilities: %w", err)
	}
	return noNewPrivileges()
}

func noNewPrivileges() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }

// keyring is a session keyring without a name, with nothing in it.
func keyring() error {
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// execute tells the parent what lacks, sets the filter and becomes the program.
func (c *child) execute() error {
	path, err := syscall.BytePtrFromString(c.Path)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(c.Args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(c.Env)
	if err != nil {
		return err
	}
	run := c.Path != "" && !(c.Required && len(c.lacks) > 0)
	if slices.Contains(c.Walls, Seccomp) {
		l := last{socket: uintptr(c.socket), run: run, sent: c.answer(nil), failed: []byte(`{"ran":true,"text":"run it","errno":    }`), path: path, argv: &argv[0], env: &env[0]}
		if err = noNewPrivileges(); err == nil {
			err = l.become(c.Filter)
		}
		c.lacks = append(c.lacks, lack(Seccomp, "build it", err))
		run = run && !c.Required
	}
	if !run {
		return nil
	}
	c.say(nil)
	c.lacks = nil
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
	return &runError{c.Path, errno}
}

// runError is that of a program that can't be run.
type runError struct {
	path  string
	errno syscall.Errno
}

func (e *runError) Error() string { return "run " + e.path }
func (e *runError) Unwrap() error { return e.errno }

//go:nosplit
func write(fd uintptr, b []byte) {
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

// last is all that the helper does behind its filter.
type last struct {
	socket       uintptr
	run          bool
	sent, failed []byte // what it says first, and where it can't become the program
	path         *byte
	argv, env    **byte

	prog unix.SockFprog
	msg  unix.Msghdr
	fd   *int32 // in the message
}

// become sets the filter, and does not return then.
func (l *last) become(filter []unix.SockFilter) error {
	l.prog = unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	oob, data := unix.UnixRights(0), []byte("\n")
	iov := unix.Iovec{Base: &data[0]}
	iov.SetLen(1)
	l.msg = unix.Msghdr{Iov: &iov, Control: &oob[0]}
	l.msg.SetIovlen(1)
	l.msg.SetControllen(len(oob))
	l.fd = (*int32)(unsafe.Pointer(&oob[unix.CmsgLen(0)]))
	if errno := l.steps(); errno != 0 {
		return errno
	}
	return nil
}

// steps sets the filter, sends the parent the file by which it is asked, says the word, and
// becomes the program. It is one function that the runtime can't preempt: for that it would make system
// calls of its own. It keeps no copy of the file: when the parent is gone, calls are to fail.
//
//go:nosplit
func (l *last) steps() syscall.Errno {
	fd, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&l.prog)))
	if errno != 0 {
		return errno
	}
	*l.fd = int32(fd)
	_, _, errno = syscall.RawSyscall(unix.SYS_SENDMSG, l.socket, uintptr(unsafe.Pointer(&l.msg)), 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno == 0 {
		write(l.socket, l.sent)
	}
	if errno == 0 && l.run {
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(l.path)), uintptr(unsafe.Pointer(l.argv)), uintptr(unsafe.Pointer(l.env)))
		for i, n := len(l.failed)-2, errno; n > 0 && i >= 0; i, n = i-1, n/10 {
			l.failed[i] = byte('0' + n%10)
		}
		write(l.socket, l.failed)
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
