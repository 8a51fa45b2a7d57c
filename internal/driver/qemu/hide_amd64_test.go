package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/sys"
	"mvm/internal/testenv/inject"
)

// rename has the VMM show arguments that are no VMM's, unmain has its main thread exit
// while the others go on.
func rename(t *testing.T, pid int) {
	t.Helper()
	must(t, inject.Into(pid, pid, func(th *inject.Thread) error { return th.Rename("[kworker/0:1]") }))
}

func unmain(t *testing.T, pid int) {
	t.Helper()
	must(t, inject.Into(pid, pid, (*inject.Thread).Exit))
}

// A VMM that was taken over hides: it shows other arguments, its main thread exits, what
// was noted of it is lost. It is found, taken up as far as it answers, and ended.
func TestVMMThatHides(t *testing.T)             { testHiding(t, false) }
func TestVMMThatHidesThroughHostd(t *testing.T) { testHiding(t, true) }

func testHiding(t *testing.T, hostd bool) {
	h := newHost(t)
	h.hostd = hostd
	d := h.driver(t)
	for n, c := range []struct {
		name string
		hide []func(*testing.T, int)
		lost bool // RunDir, and with it what was noted
		end  func(*testing.T, driver.VMM, driver.Spec)
	}{
		{"renamed, and taken up", hides(rename), false, func(t *testing.T, v driver.VMM, spec driver.Spec) {
			must(t, v.Close())
			again, err := h.driver(t).Recover(t.Context(), spec)
			must(t, err)
			defer again.Close()
			if again.PID() != v.PID() {
				t.Errorf("took up process %d, want %d", again.PID(), v.PID())
			}
			must(t, again.Kill(t.Context()))
		}},
		{"main thread, held", hides(unmain), false, func(t *testing.T, v driver.VMM, _ driver.Spec) {
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
		}},
		{"main thread, not taken up", hides(unmain), false, func(t *testing.T, v driver.VMM, spec driver.Spec) {
			must(t, v.Close())
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := h.driver(t).Recover(ctx, spec); !mvm.IsKind(err, mvm.KindUnavailable) {
				t.Errorf("recover: %v, want that it does not answer", err)
			}
			must(t, h.driver(t).Destroy(t.Context(), spec))
		}},
		{"both, swept", hides(rename, unmain), false, func(t *testing.T, v driver.VMM, spec driver.Spec) {
			must(t, v.Close())
			if _, err := h.driver(t).Sweep(t.Context(), h.root(), func(string) bool { return false }); err != nil {
				t.Errorf("sweep: %v", err)
			}
		}},
		{"both, and no record", hides(rename, unmain), true, func(t *testing.T, v driver.VMM, spec driver.Spec) {
			nothing, err := h.driver(t).Survey(t.Context())
			must(t, err)
			if nothing(spec) {
				t.Error("a survey says that there is nothing")
			}
			must(t, v.Close())
			must(t, h.driver(t).Destroy(t.Context(), spec))
		}},
		{"both, no record and no cgroup", hides(leaveCgroups, rename, unmain), true, func(t *testing.T, v driver.VMM, spec driver.Spec) {
			must(t, v.Close())
			must(t, h.driver(t).Destroy(t.Context(), spec))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := h.spec(t, fmt.Sprintf("i-0001900%d", n))
			v := start(t, d, spec)
			pid := v.PID()
			own, err := os.FindProcess(pid) // by pidfd
			must(t, err)
			t.Cleanup(func() { _ = own.Kill() }) // what mvm does not find is not to be left
			for _, hide := range c.hide {
				hide(t, pid)
			}
			if p, err := sys.OpenProcess(pid); err != nil {
				t.Errorf("the VMM that hides: %v", err)
			} else {
				must(t, p.Close())
			}
			if c.lost {
				must(t, os.RemoveAll(spec.RunDir))
			}
			c.end(t, v, spec)
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the VMM lives: %v", err)
				must(t, own.Kill())
			}
			must(t, os.MkdirAll(spec.RunDir, 0o700))
			h.empty(t, c.name, spec)
		})
	}
}

func hides(all ...func(*testing.T, int)) []func(*testing.T, int) { return all }

// leaveCgroups makes it as on a host that has none.
func leaveCgroups(t *testing.T, pid int) {
	t.Helper()
	dirs, _ := sys.CgroupDirs("mvm-none") // a host may have none
	for _, dir := range dirs {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), fmt.Append(nil, pid), 0))
	}
}

// A VMM that was taken over and takes its guest's memory away, or ends, while a snapshot is
// made has that snapshot fail, and leaves nothing of it.
func TestVMMThatCheats(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	for n, c := range []struct {
		name string
		do   func(t *testing.T, pid int)
	}{
		{"unmaps its guest's memory", func(t *testing.T, pid int) {
			at := guestMemory(t, pid)
			must(t, inject.Into(pid, pid, func(th *inject.Thread) error {
				_, err := th.Call(unix.SYS_MUNMAP, at, uint64(256<<20))
				return err
			}))
		}},
		{"ends", func(t *testing.T, pid int) { killOutside(t, pid) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := h.spec(t, fmt.Sprintf("i-0001900%d", 8+n))
			v := start(t, d, spec)
			must(t, v.Pause(t.Context()))
			h.seam = func(op string) error {
				if op == "snapshot.pages" {
					c.do(t, v.PID())
				}
				return nil
			}
			err := v.Snapshot(t.Context(), drivertest.Snapshot(t, spec))
			h.seam = nil
			if !mvm.IsKind(err, mvm.KindUnavailable) {
				t.Errorf("snapshot: %v, want unavailable", err)
			}
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
			if left := drivertest.SnapshotFiles(t, drivertest.Snapshot(t, spec)); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

// guestMemory is the address of the memory of a guest that has booted.
func guestMemory(t *testing.T, pid int) (at uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.HasSuffix(strings.TrimSpace(line), "/dev/zero") {
			fmt.Sscanf(line, "%x-", &at)
			return at
		}
	}
	t.Fatal("the VMM has no memory for its guest")
	return 0
}
