package guest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/workload"
)

// TestReapAsInit runs this program as PID 1 of a PID namespace.
func TestReapAsInit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), "MVM_TEST_INIT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("as PID 1: %v\n%s", err, out)
	}
}

// beInit is PID 1: it starts many processes at once, each leaving an orphan, and
// checks that every exit code arrives and that no zombie is left.
func beInit() int {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", 0, "")
	}
	if err != nil {
		fmt.Println("mount proc:", err)
		return 1
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	procs := workload.NewProcesses(true)
	ctx, cancel := context.WithCancel(context.Background())
	var reaper sync.WaitGroup
	reaper.Go(func() { procs.Reap(ctx) })
	failed := make(chan string, 200)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			code := i % 100
			p, err := procs.Start(workload.Command{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("(sleep 0.05; exit 9) & exit %d", code)},
				Dir: "/", Files: [3]*os.File{null, null, null}})
			if err != nil {
				failed <- err.Error()
				return
			}
			<-p.Done()
			if got := p.Code(); got != code {
				failed <- fmt.Sprintf("process %d ended with %d, want %d", p.PID, got, code)
			}
			p.Signal(unix.SIGKILL) // must hit nobody
		})
	}
	wg.Wait()
	deadline := time.Now().Add(patience)
	for children() != "" && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if left := children(); left != "" {
		failed <- "children are left: " + left
	}
	cancel()
	reaper.Wait()
	close(failed)
	for f := range failed {
		fmt.Println(f)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// children lists the children of PID 1, whichever thread started them.
func children() string {
	dirs, _ := os.ReadDir("/proc")
	var all []string
	for _, d := range dirs {
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err == nil && d.Name() != "1" && strings.Trim(d.Name(), "0123456789") == "" {
			all = append(all, string(b))
		}
	}
	return strings.Join(all, "")
}
