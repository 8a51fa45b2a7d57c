package spawn_test

import (
	"errors"
	"os/exec"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
)

// In production mode a VMM that can't be bounded is refused; otherwise it is told of.
func TestAVMMWithoutBounds(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	no := errors.New("memory.max: no such file")
	l := spawn.Launch{Name: spawn.Name{ID: "i-00000001"}, Cgroup: "mvm-i-00000001", MemMiB: 128}
	if err := spawn.Confine(true, no, l, cmd.Process.Pid); !mvm.IsKind(err, mvm.KindPolicy) || !errors.Is(err, no) {
		t.Errorf("in production: %v", err)
	}
	if err := spawn.Confine(true, nil, l, cmd.Process.Pid); err != nil {
		t.Errorf("in production, bounded: %v", err)
	}
	if err := spawn.Confine(false, no, l, cmd.Process.Pid); err != nil {
		t.Errorf("out of production: %v", err)
	}
}
