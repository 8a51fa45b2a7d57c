package jail_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm/internal/jail"
	"mvm/internal/testenv"
)

// The program in the jail is this one, told by its arguments what to try.
const (
	prisoner = "mvm-test-prisoner"
	envDeny  = "MVM_TEST_DENY" // calls that a host lacks: see deny
)

const uid = 64_810

func TestMain(m *testing.M) {
	jail.RunChild()
	if os.Args[0] == prisoner {
		os.Exit(try(os.Args[1], os.Args[2:]))
	}
	if lacks := os.Getenv(envDeny); lacks != "" {
		os.Exit(lacking(lacks))
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// try tries one thing, prints what came of it, and exits with 0 where it could.
func try(what string, args []string) int {
	said, err := tries(what, args)
	fmt.Print(said)
	if err != nil {
		fmt.Print(err)
		return 3
	}
	return 0
}

func tries(what string, args []string) (string, error) {
	switch what {
	case "dial":
		c, err := net.DialTimeout(args[0], args[1], 2*time.Second)
		if err == nil {
			err = c.Close()
		}
		return "", err
	case "read":
		b, err := os.ReadFile(args[0])
		return string(b), err
	case "write":
		return "", os.WriteFile(args[0], []byte("x"), 0o600)
	case "kill":
		pid, _ := strconv.Atoi(args[0])
		return "", syscall.Kill(pid, 0)
	case "shm":
		key, _ := strconv.Atoi(args[0])
		_, err := unix.SysvShmGet(key, 0, 0)
		return "", err
	case "uname":
		return os.Hostname()
	case "keyring":
		id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		return strconv.Itoa(id), err
	case "core":
		var lim unix.Rlimit
		err := unix.Getrlimit(unix.RLIMIT_CORE, &lim)
		return fmt.Sprint(lim.Max), err
	case "socket":
		_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
		return "", err
	}
	return "", errors.New("try what?")
}

// goCalls are what the Go runtime needs, and this program.
func goCalls() jail.Calls {
	return jail.Calls{Names: strings.Fields(`read close fstat newfstatat mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack pread64
access madvise getpid gettid clone clone3 exit exit_group futex sched_getaffinity sched_yield arch_prctl set_tid_address set_robust_list rseq prlimit64
getrandom nanosleep clock_nanosleep epoll_create1 epoll_ctl epoll_pwait eventfd2 pipe2 fcntl openat readlinkat tgkill uname getuid getgid geteuid getegid poll prctl timer_create timer_settime timer_delete`)}
}

// run runs this program in the jail.
func run(t *testing.T, j jail.Jail, change func(p *jail.Program), args ...string) (said string, code int, s jail.Started) {
	t.Helper()
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	must(t, err)
	dir := testenv.Dir(t) // where a user without rights gets to it
	must(t, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "prisoner")
	b, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(program, b, 0o755))
	root, err := jail.Closure(t.Context(), program)
	must(t, err)
	out, err := os.CreateTemp(dir, "out")
	must(t, err)
	defer out.Close()
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	p := jail.Program{Path: program, Args: append([]string{prisoner}, args...), Env: []string{"GODEBUG="}, Files: []*os.File{null, out, out}, UID: uid, GID: uid,
		Root: append(root, "/sys/kernel/mm/transparent_hugepage"), Limits: []jail.Limit{{Resource: unix.RLIMIT_CORE}}, Calls: goCalls()}
	if change != nil {
		change(&p)
	}
	s, err = j.Start(t.Context(), p)
	must(t, err)
	code, sig, _, err := s.Wait()
	must(t, err)
	if sig != 0 {
		code = -int(sig)
	}
	must(t, errors.Join(s.Guard.Close(), s.Close()))
	b, err = os.ReadFile(out.Name())
	must(t, err)
	return string(b), code, s
}

// but is a jail with one wall alone.
func but(w jail.Wall) jail.Jail {
	return jail.Jail{On: true, Required: true, Without: slices.DeleteFunc(jail.Walls(), func(o jail.Wall) bool { return o == w })}
}

// Each wall alone keeps the program from what it is for, and without it the program could.
func TestEachWall(t *testing.T) {
	testenv.NeedRoot(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	abstract, err := net.Listen("unix", "@mvm-test-jail-"+strconv.Itoa(os.Getpid()))
	must(t, err)
	defer abstract.Close()
	dir := testenv.Dir(t)
	must(t, os.Chmod(dir, 0o777))
	file := filepath.Join(dir, "of the host")
	must(t, os.WriteFile(file, []byte("text"), 0o644))
	shm, err := unix.SysvShmGet(0x6d766d, 4096, unix.IPC_CREAT|0o666)
	must(t, err)
	defer func() { _, _ = unix.SysvShmCtl(shm, unix.IPC_RMID, nil) }()
	host, err := os.Hostname()
	must(t, err)
	other := testenv.Sleeper(t, uid)
	refused := func(_ string, code int) bool { return code == 3 }
	for _, c := range []struct {
		wall  jail.Wall
		args  []string
		stood func(said string, code int) bool
	}{
		{jail.Network, []string{"dial", "tcp", ln.Addr().String()}, refused},
		{jail.Network, []string{"dial", "unix", abstract.Addr().String()}, refused},
		{jail.Mount, []string{"read", file}, refused},
		{jail.Mount, []string{"read", "/etc/passwd"}, refused},
		{jail.Mount, []string{"write", filepath.Join(dir, "made")}, refused},
		{jail.PID, []string{"kill", strconv.Itoa(other)}, refused},
		{jail.IPC, []string{"shm", strconv.Itoa(0x6d766d)}, refused},
		{jail.UTS, []string{"uname"}, func(said string, _ int) bool { return said != host }},
		{jail.Cgroup, []string{"read", "/proc/self/cgroup"}, func(said string, code int) bool { return code == 0 && !strings.Contains(said, ":/mvm-test-jail") }},
		{jail.Keyring, []string{"keyring"}, func(said string, code int) bool { return code == 0 && !strings.Contains(said, "mine") }},
		{jail.Rlimits, []string{"core"}, func(said string, _ int) bool { return said == "0" }},
		{jail.Capabilities, []string{"read", "/proc/self/status"}, func(said string, _ int) bool {
			return strings.Contains(said, "CapBnd:\t0000000000000000") && strings.Contains(said, "NoNewPrivs:\t1")
		}},
		{jail.Landlock, []string{"read", "/etc/passwd"}, refused},
		{jail.Landlock, []string{"write", filepath.Join(dir, "made")}, refused},
		{jail.Landlock, []string{"kill", strconv.Itoa(other)}, refused},
		{jail.Seccomp, []string{"socket"}, func(_ string, code int) bool { return code == -int(syscall.SIGKILL) }},
	} {
		t.Run(string(c.wall)+" "+strings.Join(c.args, " "), func(t *testing.T) {
			mine := 0
			if c.wall == jail.Keyring { // which is the thread's
				runtime.LockOSThread()
				var err error
				mine, err = unix.KeyctlJoinSessionKeyring("mvm-test-jail")
				must(t, err)
			}
			inCgroup := func(p *jail.Program) {
				if c.wall == jail.Cgroup {
					p.Enter = enterCgroup(t)
				}
			}
			said, code, s := run(t, but(c.wall), inCgroup, c.args...)
			if c.wall == jail.Keyring {
				said = strings.ReplaceAll(said, strconv.Itoa(mine), "mine")
			}
			if !c.stood(said, code) {
				t.Errorf("behind it: exit %d, %q", code, said)
			}
			if got := s.Guard.Refused(); c.wall == jail.Seccomp && got != "socket(0x10)" {
				t.Errorf("it was ended for %q, want the call named", got)
			}
			said, code, _ = run(t, jail.Jail{On: true, Without: jail.Walls()}, inCgroup, c.args...)
			if c.wall == jail.Keyring {
				said = strings.ReplaceAll(said, strconv.Itoa(mine), "mine")
			}
			if c.stood(said, code) {
				t.Errorf("without any wall: exit %d, %q, so this shows nothing", code, said)
			}
		})
	}
}

// With all walls up the program runs, and sees its own files and itself alone.
func TestAllWalls(t *testing.T) {
	testenv.NeedRoot(t)
	all := jail.Jail{On: true, Required: true}
	said, code, s := run(t, all, nil, "read", "/proc/self/mountinfo")
	if code != 0 || len(s.Lacks) > 0 {
		t.Fatalf("exit %d, %q, lacks %v", code, said, s.Lacks)
	}
	for line := range strings.Lines(said) {
		if f := strings.Fields(line); len(f) < 6 || !strings.HasPrefix(f[5], "ro,") && f[4] != "/proc" {
			t.Errorf("it can write where %s is mounted: %s", f[4], line)
		}
	}
	if _, _, s := run(t, all, nil, "socket"); s.Guard.Refused() != "socket(0x10)" {
		t.Errorf("it was ended for %q", s.Guard.Refused())
	}
}

// What the helper makes can be reached by the program's user, whatever the umask is of who
// starts it.
func TestUmaskOfTheStarter(t *testing.T) {
	testenv.NeedRoot(t)
	defer unix.Umask(unix.Umask(0))
	strict := func(*jail.Program) { unix.Umask(0o077) }
	if said, code, _ := run(t, jail.Jail{On: true, Required: true}, strict, "read", "/proc/self/mountinfo"); code != 0 {
		t.Errorf("exit %d, %q", code, said)
	}
}

// A start that can't be leaves no process.
func TestFailedStarts(t *testing.T) {
	testenv.NeedRoot(t)
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	files := []*os.File{null, null, null}
	all := jail.Jail{On: true, Required: true}
	no := errors.New("no cgroup")
	for name, c := range map[string]struct {
		p    jail.Program
		want error
	}{
		"no program":   {jail.Program{Path: "/nonexistent", Args: []string{"x"}, Files: files, UID: uid, GID: uid}, os.ErrNotExist},
		"not in root":  {jail.Program{Path: "/bin/true", Args: []string{"x"}, Files: files, UID: uid, GID: uid}, os.ErrNotExist},
		"no cgroup":    {jail.Program{Path: "/bin/true", Args: []string{"x"}, Files: files, UID: uid, GID: uid, Enter: func(int) error { return no }}, no},
		"unknown call": {jail.Program{Path: "/bin/true", Args: []string{"x"}, Files: files, UID: uid, GID: uid, Calls: jail.Calls{Names: []string{"frobnicate"}}}, nil},
	} {
		if _, err := all.Start(t.Context(), c.p); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.Start(ctx, jail.Program{Path: "/bin/true", Args: []string{"x"}, Files: files, UID: uid, GID: uid}); err == nil {
		t.Error("called off: it started")
	}
	if kids, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); err == nil && len(bytes.TrimSpace(kids)) > 0 {
		t.Errorf("processes are left: %s", kids)
	}
}

// lackReport is what a host that lacks something says.
type lackReport struct {
	Lacks   []jail.Lack
	Refused string // by a jail that has to have all walls
}

// A host that lacks a piece is told which wall can't be built and what to do; where all walls are required
// nothing starts, and elsewhere the program runs behind the others.
func TestHostsThatLackSomething(t *testing.T) {
	testenv.NeedRoot(t)
	for _, w := range jail.Walls() {
		t.Run(string(w), func(t *testing.T) {
			r, pw, err := os.Pipe()
			must(t, err)
			p, err := os.StartProcess("/proc/self/exe", []string{"lacks"}, &os.ProcAttr{Env: append(os.Environ(), envDeny+"="+string(w)), Files: []*os.File{nil, pw, os.Stderr}})
			must(t, errors.Join(err, pw.Close()))
			var got lackReport
			derr := json.NewDecoder(r).Decode(&got)
			_, err = p.Wait()
			must(t, errors.Join(derr, err, r.Close()))
			if len(got.Lacks) != 1 || got.Lacks[0].Wall != w || got.Lacks[0].Fix() == "" || got.Lacks[0].Text == "" {
				t.Errorf("it lacks %+v, want %s alone, with its fix", got.Lacks, w)
			}
			if !strings.Contains(got.Refused, string(w)) {
				t.Errorf("where all walls are required: %q", got.Refused)
			}
		})
	}
}

// lacking is a process on a host that lacks what the wall needs.
func lacking(wall string) int {
	if err := deny(jail.Wall(wall)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var r lackReport
	var err error
	if r.Lacks, err = (jail.Jail{On: true}).Check(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	null, _ := os.Open(os.DevNull)
	root, _ := jail.Closure(context.Background(), "/bin/true")
	_, err = jail.Jail{On: true, Required: true}.Start(context.Background(), jail.Program{Path: "/bin/true", Args: []string{"true"}, Root: root, Files: []*os.File{null, null, null}, UID: uid, GID: uid,
		Limits: []jail.Limit{{Resource: unix.RLIMIT_CORE}}})
	var refused jail.Refused
	if errors.As(err, &refused) {
		r.Refused = refused.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return 1
	}
	return 0
}

// On a busy machine the helper is preempted anywhere, and still makes no call of its own
// behind its filter: nobody would answer, and it would stand still.
func TestChecksOnABusyMachine(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, stop := context.WithCancel(t.Context())
	var burning sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		burning.Go(func() {
			for ctx.Err() == nil {
			}
		})
	}
	defer burning.Wait()
	defer stop()
	for range 60 {
		lacks, err := jail.Jail{On: true}.Check(t.Context())
		must(t, err)
		if len(lacks) > 0 {
			t.Fatalf("it lacks %+v", lacks)
		}
	}
}
