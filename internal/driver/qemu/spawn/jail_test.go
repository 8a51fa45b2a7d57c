package spawn_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/jail"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) {
	jail.RunChild()
	os.Exit(m.Run())
}

// QEMU answers from behind all walls, is found by its name, and sees of the host what it
// was given.
func TestQEMUInTheJail(t *testing.T) {
	testenv.NeedRoot(t)
	b := vmproc.Bounds{RunRoot: "/run/mvm-spawn-test/i", ProbeRoot: "/run/mvm-spawn-test/q", FirstUID: user, LastUID: user + 9}
	h, err := spawn.New(spawn.Options{Bounds: b, Bounded: true, Jail: jail.Jail{On: true, Required: true}, Mark: func() (string, error) { return mark, nil }})
	must(t, err)
	w := newFiles(t)
	w.Name = vmproc.Name{ID: "i-00000042", RunDir: filepath.Join(b.RunRoot, "i-00000042")}
	w.Cgroup = w.Name.Cgroup()
	p, cgroups, err := h.Launch(t.Context(), w.Launch)
	must(t, err)
	defer func() {
		must(t, p.Kill(t.Context()))
		_, _, _, err := p.Wait()
		must(t, errors.Join(err, p.Close(), h.Leave(t.Context(), w.Name, w.Cgroup, cgroups)))
	}()
	c, err := net.Dial("unix", filepath.Join(w.dir, "qmp"))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, "QMP") {
		t.Fatalf("it greets with %q, %v; it says %s", line, err, w.words())
	}
	pid, _ := p.ID()
	proc := func(name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }
	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts", "cgroup"} {
		own, err1 := os.Readlink("/proc/self/ns/" + ns)
		its, err2 := os.Readlink(proc("ns/" + ns))
		if err := errors.Join(err1, err2); err != nil || own == its {
			t.Errorf("its %s namespace is this process's: %s, %v", ns, its, err)
		}
	}
	status, err := os.ReadFile(proc("status"))
	must(t, err)
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("its status lacks %q", want)
		}
	}
	entries, err := os.ReadDir(proc("root"))
	must(t, err)
	for _, e := range entries {
		if !slices.Contains([]string{"usr", "lib", "lib64", "etc", "dev", "proc"}, e.Name()) {
			t.Errorf("its root has %s", e.Name())
		}
	}
	again, err := h.Find(t.Context(), w.Name, vmproc.Hint{})
	must(t, err)
	defer again.Close()
	if found, _ := again.ID(); found != pid {
		t.Errorf("found process %d, want %d", found, pid)
	}
}
