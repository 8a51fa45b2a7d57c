package host_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/api"
	"mvm/internal/cli"
	"mvm/internal/host"
	"mvm/internal/testenv"
	"mvm/test/fakevmm"
)

// What this program plays when it is told to by its environment.
const (
	envAgent  = "MVM_TEST_AGENT"  // an agent with these options
	envHostd  = "MVM_TEST_HOSTD"  // mvm hostd with these
	envLocked = "MVM_TEST_LOCKED" // the bytes that it may lock
	envPeek   = "MVM_TEST_PEEK"   // one that looks at this process
)

func TestMain(m *testing.M) {
	host.RunChild()
	switch {
	case fakevmm.Is():
		os.Exit(fakevmm.Main(os.Args, os.Stdout, os.Stderr))
	case os.Getenv(envAgent) != "", os.Getenv(envHostd) != "":
		os.Exit(beAgent())
	case os.Getenv(envPeek) != "":
		fmt.Println(peek(os.Getenv(envPeek)))
		return
	}
	os.Exit(m.Run())
}

func beAgent() int {
	var o host.Options
	hostd := os.Getenv(envHostd)
	err := json.Unmarshal([]byte(os.Getenv(envAgent)+hostd), &o)
	if text := os.Getenv(envLocked); err == nil && text != "" {
		n, _ := strconv.ParseUint(text, 10, 64)
		err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: n, Max: n})
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if hostd != "" {
			err = host.ServeHostd(ctx, o.AgentConfig)
		} else {
			err = host.Serve(ctx, o, nil)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return cli.ExitCode(err)
}

// peek lists what this process can do to another: trace it, read its environment and its
// memory.
func peek(pid string) string {
	runtime.LockOSThread()
	var can []string
	n, _ := strconv.Atoi(pid)
	if unix.PtraceAttach(n) == nil {
		can = append(can, "trace")
		_, _ = unix.Wait4(n, nil, unix.WALL, nil)
		_ = unix.PtraceDetach(n)
	}
	if b, err := os.ReadFile("/proc/" + pid + "/environ"); err == nil && len(b) > 0 {
		can = append(can, "environ")
	}
	if f, err := os.Open("/proc/" + pid + "/mem"); err == nil {
		can = append(can, "mem")
		f.Close()
	}
	if _, err := os.Readlink("/proc/" + pid + "/fd/0"); err == nil {
		can = append(can, "fd")
	}
	return strings.Join(can, " ")
}

// program is this one where every user can run it.
func program(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	path := filepath.Join(dir, "test")
	must(t, os.WriteFile(path, b, 0o755))
	must(t, os.Chmod(path, 0o755))
	return path
}

func as(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// No other process sees the agent's memory, nor does swap its master key; where the
// limit of locked memory does not allow that, the agent says so.
func TestMemoryOfTheAgent(t *testing.T) {
	testenv.NeedRoot(t)
	const user = 64_501
	exe := program(t, testenv.Dir(t))
	peekAt := func(uid uint32, pid int) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = []string{envPeek + "=" + strconv.Itoa(pid)}
		cmd.SysProcAttr = as(uid)
		out, err := cmd.Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	plain := exec.CommandContext(t.Context(), "sleep", "60")
	plain.SysProcAttr = as(user)
	must(t, plain.Start())
	defer func() { _ = plain.Process.Kill(); _ = plain.Wait() }()
	testenv.Eventually(t, time.Minute, func() error {
		if got := peekAt(user, plain.Process.Pid); !strings.Contains(got, "environ") {
			return fmt.Errorf("at any process of its own a user can only %q: this test would show nothing", got)
		}
		return nil
	})

	for name, c := range map[string]struct {
		uid    uint32
		limit  string
		locked int // KiB at least
		warns  bool
	}{
		"root":                     {0, "", 4, false},
		"a user":                   {user, "65536", 4, false},
		"a user without a limit":   {user, "", 4, false},
		"a user who may lock none": {user, "0", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.Dir(t)
			must(t, os.Chown(dir, int(c.uid), int(c.uid)))
			o := options(dir)
			o.LogLevel = "info"
			text, err := json.Marshal(o)
			must(t, err)
			var log bytes.Buffer
			cmd := exec.Command(exe)
			cmd.Env = []string{envAgent + "=" + string(text), envLocked + "=" + c.limit}
			cmd.Stderr, cmd.SysProcAttr = &log, as(c.uid)
			must(t, cmd.Start())
			client := api.Dial(o.Socket)
			defer client.Close()
			testenv.Eventually(t, time.Minute, func() error {
				_, err := client.Version(t.Context())
				return err
			})
			for _, uid := range []uint32{user, 65534} {
				if got := peekAt(uid, cmd.Process.Pid); got != "" {
					t.Errorf("user %d can %s", uid, got)
				}
			}
			if kib := lockedKiB(t, cmd.Process.Pid); kib < c.locked {
				t.Errorf("%d KiB are locked, want %d", kib, c.locked)
			}
			must(t, cmd.Process.Signal(syscall.SIGTERM))
			must(t, cmd.Wait())
			if warned := strings.Contains(log.String(), "may get into swap"); warned != c.warns {
				t.Errorf("it warned: %v, want %v\n%s", warned, c.warns, &log)
			}
		})
	}
}

func lockedKiB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return n
}
