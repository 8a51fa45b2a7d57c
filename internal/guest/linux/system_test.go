package linux_test

import (
	"os"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/linux"
	"mvm/internal/guest/workload"
)

func TestAddEntropy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("crediting entropy needs root")
	}
	sys := &linux.System{}
	for _, size := range []int{1, 31, 32, 64, 4096} {
		if err := sys.AddEntropy(make([]byte, size)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, size := range []int{0, 4097} {
		if err := sys.AddEntropy(make([]byte, size)); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%d bytes: %v, want invalid", size, err)
		}
	}
}

// A step of nothing goes through the kernel and changes nothing.
func TestStepClockByNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("stepping the clock needs root")
	}
	before := time.Now()
	if err := new(linux.System).StepClock(0); err != nil {
		t.Fatal(err)
	}
	wall, mono := time.Now().Round(0).Sub(before.Round(0)), time.Since(before)
	if d := (wall - mono).Abs(); d > 50*time.Millisecond {
		t.Errorf("the clock moved by %s", d)
	}
}

func TestHoldsSecrets(t *testing.T) {
	sys := &linux.System{}
	if err := sys.HoldsSecrets("/dev/shm"); err != nil {
		t.Errorf("/dev/shm: %v", err)
	}
	if err := sys.HoldsSecrets("/proc"); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("/proc: %v, want a refusal", err)
	}
	if err := sys.HoldsSecrets("/no/such/dir"); err == nil {
		t.Error("a folder that is not there holds secrets")
	}
}

func TestBootIDAndUptime(t *testing.T) {
	sys := &linux.System{}
	a, err := sys.BootID()
	if b, err2 := sys.BootID(); err != nil || err2 != nil || a != b || len(a) != 36 {
		t.Errorf("boot ids %q and %q, %v, %v", a, b, err, err2)
	}
	if up, err := sys.Uptime(); err != nil || up <= 0 {
		t.Errorf("uptime %s, %v", up, err)
	}
}

func TestHostnameRefuses(t *testing.T) {
	for _, name := range []string{"a b", "a\nb", "ä"} {
		if err := new(linux.System).SetHostname(name); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("host name %q: %v, want invalid", name, err)
		}
	}
}

// Where it is not PID 1, powering off is a command's work.
func TestPowerOffByCommand(t *testing.T) {
	flag := t.TempDir() + "/off"
	sys := &linux.System{Processes: workload.NewProcesses(false), PowerOffCommand: []string{"touch", flag}}
	if err := sys.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(flag); err != nil {
		t.Error(err)
	}
	sys.PowerOffCommand = []string{"false"}
	if err := sys.PowerOff(); !mvm.IsKind(err, mvm.KindInternal) {
		t.Errorf("with a failing command: %v", err)
	}
	sys.PowerOffCommand = nil
	if err := sys.PowerOff(); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("without a command: %v", err)
	}
}
