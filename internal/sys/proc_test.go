package sys_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mvm/internal/sys"
)

func TestProcessWaitReaps(t *testing.T) {
	for _, tc := range []struct {
		name string
		kill syscall.Signal
		code int
	}{{"exits", 0, 3}, {"is killed", syscall.SIGKILL, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", "read x; exit 3")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			p, err := sys.OpenProcess(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if _, err := p.Stats(); err != nil {
				t.Error(err)
			}
			if tc.kill != 0 {
				if err := p.Signal(tc.kill); err != nil {
					t.Fatal(err)
				}
			} else {
				in.Write([]byte("\n"))
			}
			code, sig, known, err := p.Wait()
			if err != nil || !known || code != tc.code || sig != tc.kill {
				t.Errorf("got %d, %v, %v, %v; want %d, %v", code, sig, known, err, tc.code, tc.kill)
			}
			if err := p.Signal(syscall.SIGKILL); !errors.Is(err, sys.ErrNoProcess) {
				t.Errorf("signal after the end: %v, want ErrNoProcess", err)
			}
			if _, err := sys.OpenProcess(p.PID); !errors.Is(err, sys.ErrNoProcess) {
				t.Errorf("open after the end: %v, want ErrNoProcess (a zombie is left)", err)
			}
			cmd.Process.Release()
		})
	}
}

func TestProcessInterrupt(t *testing.T) {
	p, err := sys.OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	done := make(chan error)
	go func() { _, _, _, err := p.Wait(); done <- err }()
	p.Interrupt()
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the wait to be interrupted", err)
	}
}

func TestFindProcesses(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pids, err := sys.FindProcesses(exe, func(uid int) bool { return uid == os.Geteuid() })
	if err != nil || !slices.Contains(pids, os.Getpid()) {
		t.Errorf("got %v, %v; want this process among them", pids, err)
	}
}

func TestCgroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { cmd.Process.Kill(); cmd.Wait() }
	defer kill()
	dirs, err := sys.EnterCgroup("mvm-systest", cmd.Process.Pid, sys.CgroupLimits{MemoryBytes: 64 << 20, PIDs: 10})
	defer sys.LeaveCgroup(dirs)
	if len(dirs) == 0 {
		t.Skipf("this host lets nobody make cgroups: %v", err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup")
	if err != nil || !strings.Contains(string(b), "/mvm-systest") {
		t.Errorf("the process is in %q, %v; want mvm-systest", b, err)
	}
	kill()
	if err := sys.LeaveCgroup(dirs); err != nil {
		t.Error(err)
	}
	for _, d := range dirs {
		if _, err := os.Stat(d); !os.IsNotExist(err) {
			t.Errorf("%s is left", d)
		}
	}
	if _, err := sys.EnterCgroup("../up", 1, sys.CgroupLimits{}); err == nil {
		t.Error("a name that climbs was taken")
	}
}
