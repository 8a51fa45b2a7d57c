package doctor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine makes a root of a file system from names and contents; a name that ends in
// "*" is a program.
func machine(t *testing.T, files map[string]string) doctor.Options {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if p, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = p, 0o755
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	uid := 0
	return doctor.Options{Root: root, Path: filepath.Join(root, "bin"), DataDir: filepath.Join(root, "data", "not", "there"), UID: &uid}
}

// find returns the one finding whose text has the words.
func find(t *testing.T, all []mvm.Finding, words string) mvm.Finding {
	t.Helper()
	var hits []mvm.Finding
	for _, f := range all {
		if strings.Contains(f.What, words) {
			hits = append(hits, f)
		}
	}
	if len(hits) != 1 {
		t.Fatalf("%d findings with %q in %+v, want 1", len(hits), words, all)
	}
	return hits[0]
}

func TestAHostThatIsFit(t *testing.T) {
	found := doctor.Host(context.Background(), machine(t, map[string]string{
		"bin/qemu-system-x86_64*": "#!/bin/sh\necho QEMU emulator version 7.2.9\necho more\n",
		"bin/apt-get*":            "", "sbin/mkfs.ext4*": "", "dev/kvm": "", "dev/net/tun": "", "sys/module/bridge/x": "",
		"proc/sys/net/ipv4/ip_forward": "1\n", "proc/meminfo": "MemTotal: 1 kB\nMemAvailable:   16777216 kB\n",
	}))
	for _, words := range []string{"runs as root", "QEMU emulator version 7.2.9", "the KVM device can be opened", "network devices", "kernel has bridges",
		"forwards packets", "mkfs.ext4", "apt-get", "16.0 GiB of memory"} {
		if f := find(t, found, words); f.Severity != "ok" || f.Fix != "" {
			t.Errorf("%s: %+v, want ok", words, f)
		}
	}
}

func TestAHostThatLacksEverything(t *testing.T) {
	opt := machine(t, map[string]string{"bin/qemu-system-x86_64*": "#!/bin/sh\necho cannot load >&2\nexit 1\n",
		"proc/sys/net/ipv4/ip_forward": "0\n", "proc/meminfo": "MemAvailable:  524288 kB\n"})
	uid := 1000
	opt.UID = &uid
	found := doctor.Host(context.Background(), opt)
	for words, want := range map[string]string{"not run as root": "error", "QEMU does not run": "error", "no KVM": "warning", "can't create network devices": "error",
		"does not forward packets": "warning", "mkfs.ext4 is not installed": "error", "apt-get is not installed": "error", "0.5 GiB of memory": "error"} {
		if f := find(t, found, words); f.Severity != want || f.Fix == "" {
			t.Errorf("%s: %+v, want %s with a fix", words, f, want)
		}
	}
	if f := find(t, found, "QEMU does not run"); !strings.Contains(f.What, "cannot load") {
		t.Errorf("%q does not say why", f.What)
	}
}

func TestWhatCannotBeSeenIsSaid(t *testing.T) {
	found := doctor.Host(context.Background(), machine(t, nil))
	for words, want := range map[string]string{"qemu-system-x86_64 is not installed": "error", "can't check whether the host forwards": "warning", "can't read the free memory": "warning"} {
		if f := find(t, found, words); f.Severity != want {
			t.Errorf("%s: %+v, want %s", words, f, want)
		}
	}
	free := find(t, found, "GiB free for images")
	if free.Where == "" || strings.Contains(free.Where, "not/there") {
		t.Errorf("free space of %q, want a folder that exists", free.Where)
	}
}

func TestItEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if found := doctor.Host(ctx, machine(t, nil)); len(found) != 0 {
		t.Errorf("%d findings after the end", len(found))
	}
}

// Each missing wall is told with what to do, and only where this process would build them.
func TestWallsThatAreMissing(t *testing.T) {
	opt := machine(t, nil)
	missing := []mvm.Finding{{Severity: "warning", What: "VMMs run without landlock: x", Fix: "a"}, {Severity: "warning", What: "VMMs run without seccomp: y", Fix: "b"}}
	opt.Walls = func(context.Context) ([]mvm.Finding, error) { return missing, nil }
	for _, m := range missing {
		if f := find(t, doctor.Host(context.Background(), opt), m.What); f != m {
			t.Errorf("got %+v, want %+v", f, m)
		}
	}
	missing = nil
	if f := find(t, doctor.Host(context.Background(), opt), "all walls around VMMs stand"); f.Severity != "ok" {
		t.Errorf("with all walls: %+v", f)
	}
	opt.Walls = func(context.Context) ([]mvm.Finding, error) { return nil, errors.New("it can't start") }
	if f := find(t, doctor.Host(context.Background(), opt), "it can't start"); f.Severity != "warning" {
		t.Errorf("a check that fails: %+v", f)
	}
	uid := 1000
	opt.UID = &uid
	for _, f := range doctor.Host(context.Background(), opt) {
		if strings.Contains(f.What, "walls") {
			t.Errorf("a user without rights: %+v", f)
		}
	}
}

// Whether flakes can be built is told, and only where this process would build them.
func TestFlakes(t *testing.T) {
	opt := machine(t, nil)
	want := mvm.Finding{Severity: "warning", What: "images of Nix flakes can't be built: x", Fix: "a"}
	opt.Flakes = func(context.Context) mvm.Finding { return want }
	if f := find(t, doctor.Host(context.Background(), opt), want.What); f != want {
		t.Errorf("got %+v, want %+v", f, want)
	}
	uid := 1000
	opt.UID = &uid
	for _, f := range doctor.Host(context.Background(), opt) {
		if f == want {
			t.Errorf("a user without rights: %+v", f)
		}
	}
}
