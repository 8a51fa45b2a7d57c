package sys_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"mvm/internal/sys"
	"mvm/internal/testenv"
)

// A process gets the CPU time of its cgroup and no more, and what it went without is counted.
func TestCPUTimeIsBounded(t *testing.T) {
	testenv.NeedRoot(t)
	if err := sys.CPUBound(""); err != nil {
		t.Fatal(err)
	}
	const name = "mvm-systest-cpu"
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "read x; while :; do :; done")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := sys.EnterCgroup(name, cmd.Process.Pid, sys.CgroupLimits{CPUWeight: 200, CPUMilli: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := sys.LeaveCgroup(dirs); err != nil {
			t.Error(err)
		}
	}()
	begun := time.Now()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if sys.CgroupThrottled(name) == 0 {
			return errors.New("nothing is counted")
		}
		return nil
	})
	p, err := sys.OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	st, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); st.CPU > took/10+100*time.Millisecond {
		t.Errorf("it took %v of CPU time in %v, of which a tenth is its", st.CPU, took)
	}
	for _, dir := range dirs {
		if b, err := os.ReadFile(filepath.Join(dir, "cpu.shares")); err == nil && string(b) != "2048\n" {
			t.Errorf("its share is %q", b)
		}
	}
}
