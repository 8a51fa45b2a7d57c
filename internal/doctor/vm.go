package doctor

import (
	"context"
	"fmt"
	"os"

	"mvm"
	"mvm/internal/driver/firecracker/api"
)

func (h host) root(ctx context.Context) mvm.Finding {
	if h.opt.Hostd != "" {
		return h.hostd(ctx)
	}
	uid := h.uid()
	if uid == 0 {
		return found(ok, "runs as root", "", "")
	}
	return found(failure, "does not run as root", fmt.Sprintf("(user %d)", uid), "run the agent as root, so that it can give each VMM its own user")
}

// hostd asks whether what has the rights answers.
func (h host) hostd(ctx context.Context) mvm.Finding {
	err := h.opt.Hello(ctx)
	if err == nil {
		return found(ok, "mvm hostd does what needs root; the agent needs no privileges", h.opt.Hostd, "")
	}
	fix := "start it: systemctl start mvm-hostd"
	if mvm.IsKind(err, mvm.KindPolicy) {
		fix = "run this as root or as the agent's user"
	}
	return found(failure, "mvm hostd does not answer: "+err.Error(), h.opt.Hostd, fix)
}

// walls says what is missing of the walls around VMMs, each with its fix. hostd says it where it starts
// them; a user without rights could not try.
func (h host) walls(ctx context.Context) []mvm.Finding {
	if h.opt.Walls == nil {
		return nil
	}
	missing, err := h.opt.Walls(ctx)
	switch {
	case err != nil:
		return []mvm.Finding{found(warning, "can't check the walls around VMMs: "+err.Error(), h.opt.Hostd, "")}
	case len(missing) == 0:
		return []mvm.Finding{found(ok, "all walls around VMMs stand, and their resources are bounded", "", "")}
	}
	return missing
}

func (h host) uid() int {
	if h.opt.UID != nil {
		return *h.opt.UID
	}
	return os.Geteuid()
}

func (h host) qemu(ctx context.Context) mvm.Finding {
	const name, fix = "qemu-system-x86_64", "install it: apt-get install qemu-system-x86"
	path := h.look(name)
	if path == "" {
		return found(failure, name+" is not installed", "", fix)
	}
	version, err := output(ctx, path, "--version")
	if err != nil {
		return found(failure, "QEMU does not run: "+err.Error(), path, fix)
	}
	return found(ok, version, path, "")
}

// firecracker looks for the program, and which version it is.
func (h host) firecracker(ctx context.Context) mvm.Finding {
	const fix = "install a release of Firecracker, see docs/firecracker.md, or set driver = \"qemu\""
	if h.opt.Hostd != "" {
		return found(failure, "mvm hostd does not start Firecracker yet", h.opt.Hostd, "run the agent as root, without hostd_socket, or set driver = \"qemu\"")
	}
	path := h.look("firecracker")
	if path == "" {
		return found(failure, "firecracker is not installed", "", fix)
	}
	printed, err := output(ctx, path, "--version")
	if err != nil {
		return found(failure, "Firecracker does not run: "+err.Error(), path, fix)
	}
	version, ok := api.VersionIn(printed)
	if !ok {
		return found(failure, fmt.Sprintf("Firecracker does not say its version, but %.100q", printed), path, fix)
	}
	if err := api.CheckVersion(version); err != nil {
		return found(failure, err.Error(), path, fix)
	}
	return found(warning, "Firecracker "+version+" can be used; mvm's driver for it was never run with KVM by its authors", path,
		"see docs/firecracker.md for what was tested, or set driver = \"qemu\"")
}

// needsKVM looks for the device, without which Firecracker starts no VM.
func (h host) needsKVM(ctx context.Context) mvm.Finding {
	f := h.kvm(ctx)
	if f.Severity != ok {
		f.Severity, f.What = failure, "no KVM: Firecracker starts no VM without it"
	}
	return f
}

// kvm only looks at the device. Whether guests run with it the agent's probe says.
func (h host) kvm(context.Context) mvm.Finding {
	f, err := os.OpenFile(h.path("/dev/kvm"), os.O_RDWR, 0)
	if err != nil {
		return found(warning, "no KVM: guests run in software (TCG), which is several times slower and isolates less", "",
			"turn on virtualisation in the firmware, or nested virtualisation on the host; then load kvm_intel or kvm_amd")
	}
	_ = f.Close()
	return found(ok, "the KVM device can be opened; the agent's probe boot decides whether guests run with it", h.path("/dev/kvm"), "")
}

func (h host) tun(context.Context) mvm.Finding {
	f, err := os.OpenFile(h.path("/dev/net/tun"), os.O_RDWR, 0)
	if err != nil {
		return found(failure, "can't create network devices for guests: "+err.Error(), "", "load the module: modprobe tun")
	}
	_ = f.Close()
	if st, err := os.Stat(h.path("/dev/net/tun")); h.opt.Driver == "firecracker" && (err != nil || st.Mode()&0o006 != 0o006) {
		return found(failure, "VMMs may not open network devices, as Firecracker does", h.path("/dev/net/tun"), "let every user open it, as distributions do: chmod 0666 /dev/net/tun")
	}
	return found(ok, "network devices for guests can be created", h.path("/dev/net/tun"), "")
}

// program checks for a program that something needs.
func (h host) program(name, needs, pkg string) func(context.Context) mvm.Finding {
	return func(context.Context) mvm.Finding {
		path := h.look(name)
		if path == "" {
			return found(failure, fmt.Sprintf("%s is not installed; %s need it", name, needs), "", "install it: apt-get install "+pkg)
		}
		return found(ok, name+" for "+needs, path, "")
	}
}
