// Package vm_test runs real microVMs from end to end: a whole agent with QEMU,
// bridges and nftables, as users have it.
//
// Everything happens in namespaces of its own (processes, mounts, network), so that
// the tests neither disturb an mvm that runs on the same host nor are disturbed by
// it, and nothing outlives them. The test binary plays all parts:
//
//	go test ─► prepare      builds programs and images, which may need the network
//	       └─► init         PID 1 of the namespaces: collects processes
//	            └─► tests ─► agent   an agent of its own per host, which a test can kill
//	                     └─► room    a machine of its own with systemd
//
// A run of all tests has several sets of namespaces beside one another; see shards.
package vm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	serve "mvm/internal/host"
	"mvm/internal/owner"
)

// What the process is told by its environment.
const (
	envPart    = "MVM_VM_PART"    // which part it plays; "": the one that go test starts
	envPlace   = "MVM_VM_PLACE"   // the run's folder
	envBench   = "MVM_VM_BENCH"   // of prepare: not empty, benchmarks are to run
	envOptions = "MVM_VM_OPTIONS" // of an agent, as JSON
)

func TestMain(m *testing.M) {
	serve.RunChild()
	flag.Parse()
	switch part := os.Getenv(envPart); {
	case part == "init":
		os.Exit(beInit())
	case part == "agent":
		os.Exit(beAgent())
	case part == "hostd":
		os.Exit(beHostd())
	case part == "room":
		os.Exit(beRoom())
	case part == "tests":
		os.Exit(beTests(m))
	case part == "prepare", os.Geteuid() != 0, flag.Lookup("test.list").Value.String() != "":
		os.Exit(m.Run())
	}
	os.Exit(lead())
}

// lead has everything prepared and then the tests run in namespaces.
func lead() int {
	runtime.LockOSThread() // Pdeathsig below is about the thread
	dir, err := os.MkdirTemp("/tmp", "mvm")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	prepare := self(ctx, "prepare", dir, "-test.run=^TestPrepare$", "-test.timeout=40m", "-old="+*oldFlag, "-test.v="+flag.Lookup("test.v").Value.String())
	prepare.Env = append(prepare.Env, envBench+"="+flag.Lookup("test.bench").Value.String())
	if err := prepare.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 1
	}
	stopProxy, err := serveProxy(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve a proxy:", err)
		return 1
	}
	defer stopProxy()
	return runShards(ctx, dir)
}

// aside are tests that run beside the others, each set in namespaces of its own: one that takes
// as long as half of them, and those that wait most of their time for something to be idle.
func aside() []string {
	return []string{
		"^TestDemo$",
		"^(TestAssistants|TestChat|TestDeployKilled|TestInbox|TestKilledOnFake|TestLeftAlone|TestLogsOutliveTheGuest|TestTimer|TestUnits)$",
	}
}

// shards are the flags by which several processes share a run of all tests. A run that
// names what it wants has one.
func shards() (all [][]string) {
	for _, f := range []string{"test.run", "test.skip", "test.bench"} {
		if flag.Lookup(f).Value.String() != "" {
			return [][]string{nil}
		}
	}
	all = [][]string{{"-test.skip=" + strings.Join(aside(), "|")}}
	for _, set := range aside() {
		all = append(all, []string{"-test.run=" + set})
	}
	return all
}

// runShards runs the tests. The first shard writes as it goes; what the others wrote follows.
func runShards(ctx context.Context, dir string) int {
	all := shards()
	codes, wrote := make([]int, len(all)), make([]bytes.Buffer, len(all))
	var others sync.WaitGroup
	for n := 1; n < len(all); n++ {
		others.Go(func() {
			runtime.LockOSThread() // as lead does
			codes[n] = runShard(ctx, dir, all[n], &wrote[n])
		})
	}
	codes[0] = runShard(ctx, dir, all[0], nil)
	others.Wait()
	for n := range wrote {
		_, _ = wrote[n].WriteTo(os.Stdout)
	}
	return slices.Max(codes)
}

// runShard runs tests in new namespaces, which end with it. out takes what they write; nil: it
// goes where this process writes.
func runShard(ctx context.Context, dir string, flags []string, out io.Writer) int {
	pid1 := self(ctx, "init", dir, slices.Concat(os.Args[1:], flags)...)
	pid1.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	if out != nil {
		pid1.Stdout, pid1.Stderr = out, out
	}
	return exitCode(pid1.Run())
}

// self is this program in another part. It dies with this process.
func self(ctx context.Context, part, place string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), envPart+"="+part, envPlace+"="+place)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok && e.ExitCode() >= 0 { //nolint:errorlint // as Run returns it
		return e.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// beInit sets up the namespaces, starts the tests, and collects every process that
// ends until they end. What is left then goes with the namespaces.
func beInit() int {
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, "set up namespaces:", err)
		return 1
	}
	signal.Ignore(os.Interrupt) // the tests get it too, and end
	tests := self(context.Background(), "tests", os.Getenv(envPlace), os.Args[1:]...)
	tests.SysProcAttr = nil // init's thread may end before init
	if err := tests.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			fmt.Fprintln(os.Stderr, "wait:", err)
			return 1
		case pid == tests.Process.Pid && st.Signaled():
			fmt.Fprintln(os.Stderr, "the tests died of", st.Signal())
			return 1
		case pid == tests.Process.Pid:
			return st.ExitStatus()
		}
	}
}

// settle makes /proc and the loopback interface those of the namespaces.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// What says whose networks and users are whose is about these namespaces.
	if err := os.MkdirAll(owner.LockDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("locks", owner.LockDir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", owner.LockDir, err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func beTests(m *testing.M) int {
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// part decodes what an agent is told.
func part[T any](name string) (v T, err error) {
	err = json.Unmarshal([]byte(os.Getenv(name)), &v)
	return v, err
}
