package hostd_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/testenv"
)

// The process of a VMM is bounded: its user, its system calls, its files and cores.
func TestProcessOfAVMMIsBounded(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000006")
	l.MemMiB = 16
	must(t, l.Files.Disks[0].Truncate(48<<20)) // larger than its memory
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	pid, _ := p.ID()
	proc := func(name string) map[string]string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		must(t, err)
		lines := map[string]string{}
		for line := range strings.Lines(string(b)) {
			if name == "limits" && len(line) > 26 {
				lines[strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:]), " ")
				continue
			}
			k, v, _ := strings.Cut(line, ":")
			lines[k] = strings.Join(strings.Fields(v), " ")
		}
		return lines
	}
	id := fmt.Sprint(uid)
	ids := strings.Join([]string{id, id, id, id}, " ")
	for k, want := range map[string]string{"Uid": ids, "Gid": ids, "Groups": "", "CapEff": "0000000000000000", "CapPrm": "0000000000000000"} {
		if got := proc("status")[k]; got != want {
			t.Errorf("%s is %q, want %q", k, got, want)
		}
	}
	testenv.Eventually(t, time.Minute, func() error { // QEMU filters its system calls itself
		if got := proc("status")["Seccomp"]; got != "2" {
			return fmt.Errorf("Seccomp is %q, want 2", got)
		}
		return nil
	})
	size := fmt.Sprint(48 << 20)
	limits := map[string]string{"Max core file size": "0 0 bytes", "Max file size": size + " " + size + " bytes"}
	if !mayLimit(t) {
		t.Log("this host lets nobody limit processes of other users (CAP_SYS_RESOURCE): limits are not looked at")
		limits = nil
	}
	for k, want := range limits {
		if got := proc("limits")[k]; got != want {
			t.Errorf("%s is %q, want %q", k, got, want)
		}
	}
	must(t, p.Kill(t.Context()))
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
}

// mayLimit reports whether this process may limit those of other users.
func mayLimit(t *testing.T) bool {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	return unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) == nil
}
