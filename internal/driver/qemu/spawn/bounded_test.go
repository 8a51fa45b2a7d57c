package spawn_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// In production mode a VMM that can't be bounded is refused; otherwise it is told of.
func TestAVMMWithoutBounds(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	no := errors.New("memory.max: no such file")
	l := spawn.Launch{Name: vmproc.Name{ID: "i-00000001"}, Cgroup: "mvm-i-00000001", MemMiB: 128}
	var said bytes.Buffer
	confine := func(bounded bool, cgroups error, l spawn.Launch) error {
		said.Reset()
		_, err := spawn.Confine(bounded, cgroups, l, cmd.Process.Pid, slog.New(slog.NewTextHandler(&said, nil)))
		return err
	}
	if err := confine(true, no, l); !mvm.IsKind(err, mvm.KindPolicy) || !errors.Is(err, no) {
		t.Errorf("in production: %v", err)
	}
	if err := confine(true, nil, l); err != nil || said.Len() > 0 {
		t.Errorf("in production, bounded: %v, and it logs %q", err, said.String())
	}
	if err := confine(false, no, l); err != nil || !strings.Contains(said.String(), no.Error()) {
		t.Errorf("out of production: %v, and it logs %q", err, said.String())
	}
	l.Cgroup = ""
	if err := confine(true, no, l); err != nil {
		t.Errorf("without a cgroup: %v", err)
	}
}

// A VMM's core is never written. Its files may grow to the size of its memory, or of its
// largest disk, and its cgroup has room for what QEMU itself needs, and for pages that are there
// twice where its memory is over a file in memory.
func TestLimitsOfAVMM(t *testing.T) {
	for n, disk := range []int64{0, 4 << 20, 300 << 20, 0} {
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		l := spawn.Launch{Name: vmproc.Name{ID: "i-00000001"}, Cgroup: "mvm-i-00000001", MemMiB: 128, VCPUs: 3}
		room := int64(128+256+512) << 20
		if n == 3 {
			f, err := sys.NewMemoryFile("memory", 128<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			l.Files.Memory, room = f, room+128<<20
		}
		want := int64(128 << 20)
		if disk > 0 {
			f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(disk); err != nil {
				t.Fatal(err)
			}
			l.Files.Disks, want = []*os.File{f}, max(want, disk)
		}
		got, err := spawn.Confine(true, nil, l, cmd.Process.Pid, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if (got != sys.CgroupLimits{MemoryBytes: room, PIDs: 131, CPUWeight: 300, CPUMilli: 3500}) {
			t.Errorf("its cgroup has limits %+v", got)
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int64{"Max core file size": 0, "Max file size": want} {
			_, rest, _ := strings.Cut(string(limits), name+" ")
			if fields := strings.Fields(rest); len(fields) < 2 || fields[0] != fmt.Sprint(want) || fields[1] != fmt.Sprint(want) {
				t.Errorf("with a disk of %d bytes: %s is %q, want %d", disk, name, fields[:min(2, len(fields))], want)
			}
		}
	}
}
