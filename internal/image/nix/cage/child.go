package cage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"mvm/internal/sys"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What this executable is when it is started as part of a cage, by argv[0].
const (
	buildName  = "mvm-cage-build"  // the first process, which builds the cage
	firstName  = "mvm-cage"        // the first process, when the cage stands
	probeName  = "mvm-cage-probe"  // sees whether the user can make namespaces
	ExportName = "mvm-cage-export" // writes files to standard output; see Export
)

// giveFD is the socket over which the first process gives the listener.
const giveFD = 3

// RunChild does the work of a process of a cage, where this process is one, and exits. main
// calls it before anything else.
func RunChild() {
	if len(os.Args) == 0 || !strings.HasPrefix(os.Args[0], firstName) {
		return // its standard output and error are not looked at: a second os.File would close them
	}
	answers, log := os.NewFile(1, "answers"), os.NewFile(2, "log")
	switch os.Args[0] {
	case buildName:
		runtime.LockOSThread() // rights are a thread's, until the thread becomes the next program
		lacks := build()
		_ = frameWriter{answers}.sendJSON(framePiece, lacks)
		os.Exit(1)
	case firstName:
		os.Exit(first(frameWriter{answers}, log))
	case probeName:
		os.Exit(probe(log))
	case ExportName:
		os.Exit(export(answers, log, os.Args[1:]))
	}
}

// build builds the cage around this process and goes on as first, or says what lacks.
func build() Piece {
	var o order
	if err := readSized(os.Stdin, &o); err != nil {
		return Piece{pieceSpaces, "read the order: " + err.Error()}
	}
	for _, step := range []struct {
		piece string
		do    func(order) error
	}{
		{pieceNet, ownNetwork},
		{pieceMount, ownRoot},
		{pieceLimits, limits},
		{pieceRights, giveUpRights},
	} {
		if err := step.do(o); err != nil {
			return Piece{step.piece, err.Error()}
		}
	}
	err := become(Self, []string{firstName, strconv.Itoa(o.User), strconv.Itoa(o.Seconds)})
	return Piece{pieceMount, "run the first process: " + err.Error()}
}

// become makes this thread's program another one, with standard input, output and error.
func become(path string, args []string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings([]string{"GOTRACEBACK=none", "GOMAXPROCS=2"})
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
	return errno
}

// ownNetwork brings up the loopback interface of the cage's network, and gives away a listener
// on it.
func ownNetwork(order) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	// Nix fetches nothing where it finds no address but that of loopback.
	more, err := unix.NewIfreq("lo:0")
	if err != nil {
		return err
	}
	if err := more.SetInet4Addr([]byte{192, 0, 2, 1}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, more); err != nil {
		return fmt.Errorf("give lo an address: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: ProxyPort}); err != nil {
		return fmt.Errorf("listen on lo: %w", err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		return fmt.Errorf("listen on lo: %w", err)
	}
	defer unix.Close(giveFD)
	return unix.Sendmsg(giveFD, []byte{0}, unix.UnixRights(fd), nil, 0)
}

// ProxyPort is the port of Cage.Listener, in the cage.
const ProxyPort = 3128

func limits(o order) error {
	for _, l := range []struct {
		what  int
		value uint64
	}{
		{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, uint64(o.Disk)}, {unix.RLIMIT_NPROC, uint64(o.Processes)},
		{unix.RLIMIT_NOFILE, uint64(o.Files)}, {unix.RLIMIT_MEMLOCK, 64 << 10}, {unix.RLIMIT_MSGQUEUE, 0}, {unix.RLIMIT_CPU, uint64(o.Seconds)},
	} {
		if err := unix.Prlimit(0, l.what, &unix.Rlimit{Cur: l.value, Max: l.value}, nil); err != nil {
			return fmt.Errorf("limit resource %d to %d: %w", l.what, l.value, err)
		}
	}
	return nil
}

// kept are the capabilities of the first process: to run commands as another user, and to end
// them.
var kept = []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL}

// giveUpRights takes from this thread, and from all that it becomes, every capability but kept,
// and what a program could get by its mode.
func giveUpRights(order) error {
	if err := sys.DropBounding(kept...); err != nil {
		return err
	}
	if err := inheritNothing(); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); errno != 0 && errno != unix.ENOSYS {
		return fmt.Errorf("take a keyring of its own: %w", errno)
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// inheritNothing empties the set of inheritable capabilities: a program of root has them whatever
// the bounding set says.
func inheritNothing() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&head, &sets[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

// first runs commands, one after another, until its standard input is closed or its time is
// over.
func first(out frameWriter, log *os.File) int {
	user, uerr := strconv.Atoi(os.Args[1])
	seconds, serr := strconv.Atoi(os.Args[2])
	if uerr != nil || serr != nil || user == 0 {
		return 1
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() { os.Exit(1) })
	if e := run(Command{Path: Self, Args: []string{probeName}}, user, out, log); e.Code != 0 || e.Text != "" {
		_ = out.sendJSON(framePiece, Piece{pieceUsers, fmt.Sprintf("making one failed with status %d %s", e.Code, e.Text)})
		return 1
	}
	if err := out.send(frameReady, nil); err != nil {
		return 1
	}
	commands := make(chan Command)
	go func() {
		d := json.NewDecoder(bufio.NewReader(os.Stdin))
		for {
			var c Command
			if d.Decode(&c) != nil {
				os.Exit(0)
			}
			commands <- c
		}
	}()
	for c := range commands {
		e := run(c, user, out, log)
		_, _ = log.WriteString("\n" + endOfLog + "\n")
		if out.sendJSON(frameExit, e) != nil {
			return 1
		}
	}
	return 0
}

// outputGrace is how long output is read after a command has ended.
const outputGrace = 2 * time.Second

// run runs a command as the user, and ends all that it leaves behind.
func run(c Command, user int, out frameWriter, log *os.File) exit {
	cmd := exec.Command(c.Path)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = c.Args, append([]string{}, c.Env...), "/", out, log, outputGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	err := cmd.Run()
	_ = unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		e := exit{Code: failed.ExitCode()}
		if st, ok := failed.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			e.Signal = int(st.Signal())
		}
		return e
	case err != nil && cmd.ProcessState == nil:
		return exit{Code: -1, Text: err.Error()}
	}
	return exit{}
}

// probe makes what Nix makes for a build as an unprivileged user: namespaces, and mounts in
// them.
func probe(log *os.File) int {
	if len(os.Args) > 1 {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Fprintln(log, "mount in a user namespace:", err)
			return 1
		}
		return 0
	}
	cmd := exec.Command(Self)
	cmd.Args, cmd.Env, cmd.Stderr = []string{probeName, "inside"}, []string{"GOTRACEBACK=none"}, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(log, "make a user namespace:", err)
		return 1
	}
	return 0
}
