package qemu_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/testenv"
)

// TestKVM says which accelerator this host's guests get, and why. Where MVM_REQUIRE names kvm,
// every other one than KVM is a failure.
func TestKVM(t *testing.T) {
	info, err := newHost(t).driver(t).Info(t.Context())
	must(t, err)
	t.Logf("%s %s, %s: %s", info.Name, info.Version, info.Accelerator, info.Why)
	if slices.Contains(strings.Split(os.Getenv("MVM_REQUIRE"), ","), "kvm") && info.Accelerator != spawn.AccelKVM {
		t.Errorf("MVM_REQUIRE wants KVM, and guests get %s: %s", info.Accelerator, info.Why)
	}
}

// oldKVM starts VMMs in software where KVM is asked for, after it has done as QEMU does whose
// KVM does not take what this host lacks.
type oldKVM struct {
	spawn.Host
	lacks func(spawn.Launch) string // what QEMU says before it ends; "": it runs

	mu    sync.Mutex
	asked []spawn.Launch
}

func (o *oldKVM) Launch(ctx context.Context, l spawn.Launch) (vmproc.Process, []string, error) {
	o.mu.Lock()
	o.asked = append(o.asked, l)
	o.mu.Unlock()
	if l.Accel == spawn.AccelKVM {
		if said := o.lacks(l); said != "" {
			return nil, nil, mvm.Errorf(mvm.KindInternal, "start QEMU: %s", said)
		}
		l.Accel, l.NoArchCaps = spawn.AccelTCG, false
	}
	return o.Host.Launch(ctx, l)
}

// TestKVMWithoutArchCapabilities: on a host whose KVM does not take the register of
// arch-capabilities, guests run with KVM and a CPU without them. What else KVM lacks is not
// mended so.
func TestKVMWithoutArchCapabilities(t *testing.T) {
	const msr = "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69"
	for _, c := range []struct {
		name        string
		lacks       func(spawn.Launch) string
		accel, cpu  string
		why, whyToo string
		oneBoot     bool // nothing else is tried
	}{
		{name: "with all", lacks: func(spawn.Launch) string { return "" }, accel: "kvm", cpu: " host", why: "reached userspace"},
		{name: "without the register", lacks: func(l spawn.Launch) string {
			if l.NoArchCaps {
				return ""
			}
			return msr
		}, accel: "kvm", cpu: " host,-arch-capabilities", why: "without the CPU's arch-capabilities"},
		{name: "without more", lacks: func(l spawn.Launch) string {
			if l.NoArchCaps {
				return "something else"
			}
			return msr
		}, accel: "tcg", cpu: " qemu64", why: "MSR 0x10a", whyToo: "something else"},
		{name: "without another register", lacks: func(l spawn.Launch) string { return "failed to set MSR 0x345 to 0x2000" }, accel: "tcg", cpu: " qemu64",
			why: "MSR 0x345", oneBoot: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			vmms, err := spawn.New(spawn.Options{Jail: h.jail})
			must(t, err)
			o := &oldKVM{Host: vmms, lacks: c.lacks}
			img := minimal(t)
			dir, device := testenv.Dir(t), filepath.Join(h.dir, "kvm")
			must(t, os.WriteFile(device, nil, 0o600))
			open := func() *qemu.Driver {
				d, err := qemu.New(qemu.Options{StateDir: dir, Host: o, KVM: device, Log: slog.New(slog.DiscardHandler),
					ProbeKernel: func() string { return img.Path(img.Kernel) }})
				must(t, err)
				return d
			}
			info, err := open().Info(t.Context())
			must(t, err)
			if info.Accelerator != c.accel || !strings.Contains(info.Machine, c.cpu) || !strings.Contains(info.Why, c.why) || !strings.Contains(info.Why, c.whyToo) {
				t.Errorf("guests get %s on %q: %s", info.Accelerator, info.Machine, info.Why)
			}
			if c.oneBoot && len(o.asked) != 1 {
				t.Errorf("%d probe boots, want one", len(o.asked))
			}
			again, err := open().Info(t.Context()) // another process reads what was found out
			must(t, err)
			if again.Machine != info.Machine || again.Why != info.Why {
				t.Errorf("the next agent finds %q: %s", again.Machine, again.Why)
			}
		})
	}
}
