package sys_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
	"mvm/internal/testenv"
)

const envHide = "MVM_TEST_HIDE"

func TestMain(m *testing.M) {
	if os.Getenv(envHide) != "" {
		hide()
	}
	if path := os.Getenv(envMapper); path != "" {
		mapper(path)
	}
	os.Exit(m.Run())
}

// hide lets the main thread exit while another goes on until its input ends.
func hide() {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() { // as good as never
		panic(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(7)
	}()
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

// hidden is a process whose main thread has exited.
func hidden(t *testing.T) (cmd *exec.Cmd, in io.Closer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(exe, "a hidden process")
	cmd.Env = append(os.Environ(), envHide+"=1")
	w, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Close()
		_ = cmd.Process.Kill()
	})
	testenv.Eventually(t, time.Minute, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err == nil && !strings.Contains(string(b), ") Z ") {
			err = fmt.Errorf("its main thread lives: %s", b)
		}
		return err
	})
	return cmd, w
}

// A process whose main thread has exited lives until its last thread has: it is opened,
// found, named, and ended like any other.
func TestProcessWithoutMainThread(t *testing.T) {
	for _, kill := range []bool{true, false} {
		t.Run(fmt.Sprintf("killed %v", kill), func(t *testing.T) {
			cmd, in := hidden(t)
			pid := cmd.Process.Pid
			p, err := sys.OpenProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if got := sys.Cmdline(pid); !slices.Equal(got, cmd.Args) {
				t.Errorf("its arguments are %q, want %q", got, cmd.Args)
			}
			all, err := sys.FindProcesses(cmd.Path, func(uid int) bool { return uid == os.Geteuid() })
			if err != nil || !slices.Contains(all, pid) {
				t.Errorf("found %v, %v; want %d among them", all, err, pid)
			}
			if _, err := p.Stats(); err != nil {
				t.Error(err)
			}
			waited := make(chan string, 1)
			go func() {
				code, sig, known, err := p.Wait()
				waited <- fmt.Sprint(code, int(sig), known, err)
			}()
			want := fmt.Sprint(7, 0, true, nil)
			if kill {
				want = fmt.Sprint(0, int(syscall.SIGKILL), true, nil)
				if err := p.Signal(syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			} else if err := in.Close(); err != nil {
				t.Error(err)
			}
			if got := <-waited; got != want {
				t.Errorf("waited: %s, want %s", got, want)
			}
			if _, err := sys.OpenProcess(pid); !errors.Is(err, sys.ErrNoProcess) {
				t.Errorf("open after the end: %v, want ErrNoProcess", err)
			}
		})
	}
}

// forkBomb makes processes without end, each of which goes on in its parent's place.
const forkBomb = `echo begun; while :; do sleep 60 & done`

// bombed starts a fork bomb in the cgroup, whose folders make puts the process into.
func bombed(t *testing.T, enter func(pid int) []string) []string {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; "+forkBomb)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	dirs := enter(cmd.Process.Pid)
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return dirs
}

// emptied fails the test unless the cgroups are ended and can be removed.
func emptied(t *testing.T, dirs []string, release func()) {
	t.Helper()
	if err := sys.KillCgroup(dirs); err != nil {
		t.Error(err)
	}
	for _, dir := range dirs {
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || len(b) > 0 {
			t.Errorf("in %s are %q, %v", dir, b, err)
		}
	}
	release()
	if err := sys.LeaveCgroup(dirs); err != nil {
		t.Error(err)
	}
	if err := sys.KillCgroup(dirs); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// All that is in a cgroup is ended, also where processes are made as fast as they die.
func TestKillCgroup(t *testing.T) {
	testenv.NeedRoot(t)
	const name = "mvm-systest-kill"
	dirs := bombed(t, func(pid int) []string {
		dirs, err := sys.EnterCgroup(name, pid, sys.CgroupLimits{PIDs: 200})
		if len(dirs) == 0 {
			t.Skipf("this host lets nobody make cgroups: %v", err)
		}
		if got := sys.CgroupProcesses(name); !slices.Equal(got, []int{pid}) {
			t.Errorf("in the cgroup are %v, want %d", got, pid)
		}
		if got := sys.CgroupNames(pid); !slices.Contains(got, name) {
			t.Errorf("the process is in %v, want %s", got, name)
		}
		return dirs
	})
	emptied(t, dirs, func() {})
}

// The same with version 2, by the kernel's own way and where that is not to be had.
func TestKillCgroup2(t *testing.T) {
	testenv.NeedRoot(t)
	for _, kill := range []bool{true, false} {
		t.Run(fmt.Sprintf("cgroup.kill %v", kill), func(t *testing.T) {
			dir := filepath.Join(cgroup2(t), "mvm-systest-kill2")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(dir) })
			before, release := mountsOf(t, dir), func() {}
			if !kill {
				release = withoutKill(t, filepath.Join(dir, "cgroup.kill"))
			}
			emptied(t, bombed(t, func(pid int) []string {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
					t.Fatal(err)
				}
				return []string{dir}
			}), release)
			if now := mountsOf(t, dir); now != before {
				t.Errorf("%d mounts are left in %s", now-before, dir)
			}
		})
	}
}

// mountsOf is how many mounts there are in the folder.
func mountsOf(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+dir+"/")
}

// withoutKill makes the file one that can't be written until release, which comes before
// the cgroup goes: a mount whose place is gone can't be taken away any more.
func withoutKill(t *testing.T, file string) (release func()) {
	t.Helper()
	if err := unix.Mount(file, file, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
	t.Cleanup(release)
	if err := unix.Mount("", file, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return release
}

// cgroup2 is where the tree of version 2 is mounted, with or without controllers.
func cgroup2(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		left, right, _ := bytes.Cut(line, []byte(" - cgroup2 "))
		if f := bytes.Fields(left); len(right) > 0 && len(f) > 4 {
			return string(f[4])
		}
	}
	t.Skip("this host has no cgroup version 2")
	return ""
}
