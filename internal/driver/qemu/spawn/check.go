package spawn

import (
	"regexp"
	"strings"

	"mvm"
)

// What a Launch may ask for.
const (
	maxCmdline  = 2047     // bytes, of the kernel
	roomCmdline = 200      // of it, for what is added here
	maxVCPUs    = 255      // of the machine
	minMemMiB   = 16       // below, no kernel boots
	maxMemMiB   = 16 << 20 // 16 TiB
	MaxDisks    = 8        // of one VMM
	maxTSCkHz   = 100_000_000
	maxUID      = 1<<31 - 1
)

func bad(format string, args ...any) error {
	return mvm.Errorf(mvm.KindInvalid, "check the VMM's spec: "+format, args...)
}

var (
	macRE = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
)

// Check refuses what QEMU's arguments or the kernel can't express. It does not look
// at the files. Its errors have kind invalid.
func (l Launch) Check() error {
	if err := l.Name.Check(); err != nil {
		return err
	}
	switch {
	case l.UID < 1 || l.UID > maxUID || l.GID < 1 || l.GID > maxUID:
		return bad("user %d, group %d: neither may be root's", l.UID, l.GID)
	case l.Cgroup != "" && l.Cgroup != l.Name.Cgroup():
		return bad("cgroup %.80q is not %s", l.Cgroup, l.Name.Cgroup())
	case l.Accel != AccelKVM && l.Accel != AccelTCG:
		return bad("accelerator %.20q", l.Accel)
	case l.NoArchCaps && l.Accel != AccelKVM:
		return bad("a CPU without arch-capabilities, which is for KVM")
	case l.TSCkHz < 0 || l.TSCkHz > maxTSCkHz:
		return bad("a time-stamp counter of %d kHz", l.TSCkHz)
	case l.VCPUs < 1 || l.VCPUs > maxVCPUs:
		return bad("%d vCPUs", l.VCPUs)
	case l.MemMiB < minMemMiB || l.MemMiB > maxMemMiB:
		return bad("%d MiB of memory", l.MemMiB)
	case len(l.Cmdline) > maxCmdline-roomCmdline || strings.ContainsAny(l.Cmdline, "\n\x00"):
		return bad("the kernel arguments have %d bytes, or more than one line", len(l.Cmdline))
	case l.MAC != "" && !macRE.MatchString(l.MAC):
		return bad("MAC %.40q", l.MAC)
	case len(l.Disks) > MaxDisks:
		return bad("%d disks, more than %d", len(l.Disks), MaxDisks)
	}
	for _, d := range l.Disks {
		if d.Serial == "" || len(d.Serial) > 20 || strings.ContainsAny(d.Serial, ",= \n\x00") {
			return bad("disk serial %.40q is not 1-20 bytes without ',', '=' and space", d.Serial)
		}
	}
	return nil
}
