package firecracker

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
)

// What a Spec may ask for.
const (
	maxCmdline = 2047
	maxVCPUs   = 32
	minMemMiB  = 16
	maxMemMiB  = 16 << 20
	maxDisks   = 8
)

func badSpec(format string, args ...any) error {
	return mvm.Errorf(mvm.KindInvalid, "check the VMM's spec: "+format, args...)
}

var macRE = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)

// checkPlace refuses a Spec by which no VMM can be found.
func checkPlace(s driver.Spec) error {
	if s.Memory == "" {
		return badSpec("no memory file")
	}
	return rundir.NameOf(s).Check()
}

// checkSpec refuses what Firecracker can't run. It does not look at the files.
func checkSpec(s driver.Spec) error {
	if err := checkPlace(s); err != nil {
		return err
	}
	switch {
	case s.UID < 1 || s.GID < 1:
		return badSpec("user %d, group %d: neither may be root's", s.UID, s.GID)
	case !filepath.IsAbs(s.Kernel) || s.Initrd != "" && !filepath.IsAbs(s.Initrd):
		return badSpec("kernel %q or initrd %q is not an absolute path", s.Kernel, s.Initrd)
	case s.VCPUs < 1 || s.VCPUs > maxVCPUs || s.VCPUs > 1 && s.VCPUs%2 != 0:
		return badSpec("%d vCPUs: Firecracker takes 1 or an even number up to %d", s.VCPUs, maxVCPUs)
	case s.MemMiB < minMemMiB || s.MemMiB > maxMemMiB:
		return badSpec("%d MiB of memory", s.MemMiB)
	case len(s.Disks) > maxDisks:
		return badSpec("%d disks, more than %d", len(s.Disks), maxDisks)
	case s.TAP != nil:
		return badSpec("an open TAP: Firecracker opens TAPs by name")
	case s.TAPName != "" && !macRE.MatchString(s.MAC):
		return badSpec("MAC %.40q", s.MAC)
	case len(s.TAPName) > 15 || strings.ContainsAny(s.TAPName, "/ \n\x00"):
		return badSpec("TAP %.40q", s.TAPName)
	case s.Cgroup != "" && s.Cgroup != rundir.NameOf(s).Cgroup():
		return badSpec("cgroup %.80q is not %s", s.Cgroup, rundir.NameOf(s).Cgroup())
	}
	for _, d := range s.Disks {
		if d.Serial == "" || len(d.Serial) > 20 || strings.ContainsAny(d.Serial, ",= \n\x00") {
			return badSpec("disk serial %.40q is not 1-20 bytes without ',', '=' and space", d.Serial)
		}
	}
	if args := cmdline(s); len(args) > maxCmdline || strings.ContainsAny(args, "\n\x00") {
		return badSpec("the kernel arguments have %d bytes, or more than one line", len(args))
	}
	return nil
}

// cmdline adds to the image's kernel arguments what depends on the VMM. A kernel that panics
// ends. Firecracker ends when the guest resets, and has no power switch. It sets no serial
// for a disk, so the guest is told which is which by their order.
func cmdline(s driver.Spec) string {
	args := []string{"panic=-1", "reboot=k", "mvm.poweroff=reboot"}
	if s.Cmdline != "" {
		args = append(args, s.Cmdline)
	}
	if len(s.Disks) > 0 {
		var serials []string
		for _, d := range s.Disks {
			serials = append(serials, d.Serial)
		}
		args = append(args, "mvm.disks="+strings.Join(serials, ","))
	}
	return strings.Join(append(args, "console=ttyS0"), " ")
}

// checkKernel refuses a kernel that the version can't boot.
func checkKernel(f *os.File, version string) error {
	var minor int
	if _, err := fmt.Sscanf(version, "1.%d.", &minor); err == nil && minor >= 17 {
		return nil
	}
	head := make([]byte, len(elf.ELFMAG))
	if _, err := f.ReadAt(head, 0); err == nil && string(head) == elf.ELFMAG {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "boot %s: Firecracker %s boots uncompressed kernels (vmlinux) alone", f.Name(), version).
		WithFix("build the image with a vmlinux, or use Firecracker 1.17 or later")
}
