package cage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm/internal/image/nix/cage"
	"mvm/internal/sys"
)

func TestMain(m *testing.M) {
	cage.RunChild()
	goleak.VerifyTestMain(m)
}

// TestRights: the first process of a cage has three rights of root, whatever the agent hands on.
func TestRights(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with what it may hand on
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		t.Fatal(err)
	}
	sets[0].Inheritable, sets[1].Inheritable = sets[0].Permitted, sets[1].Permitted
	if err := unix.Capset(&head, &sets[0]); err != nil {
		t.Fatal(err)
	}
	g, err := cage.Start(t.Context(), cage.Config{Disk: 16 << 20, Inodes: 1024, Memory: 256 << 20, Processes: 64, Files: 256, Within: time.Minute,
		Show: []string{"/lib", "/lib64", "/usr/lib"}, // this test may be linked dynamically
		Log:  func(line []byte) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := fmt.Sprintf("%016x", 1<<unix.CAP_SETUID|1<<unix.CAP_SETGID|1<<unix.CAP_KILL)
	status := statusOf(t)
	for _, line := range []string{"CapInh:\t0000000000000000", "CapPrm:\t" + want, "CapEff:\t" + want, "CapBnd:\t" + want, "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("the first process has not %q:\n%s", line, status)
		}
	}
}

// statusOf is what the kernel says of the rights of the first process of the only cage of this process.
func statusOf(t *testing.T) string {
	t.Helper()
	names, err := sys.CgroupsHere()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if pid, ok := strings.CutPrefix(n, fmt.Sprintf("mvm-nix-%d-", os.Getpid())); ok {
			b, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
			if err != nil {
				t.Fatal(err)
			}
			_, rights, _ := strings.Cut(string(b), "SigCgt:")
			rights, _, _ = strings.Cut(rights, "Seccomp:")
			return rights
		}
	}
	t.Fatal("there is no cage")
	return ""
}
