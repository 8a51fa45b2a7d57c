package qemu

import (
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
)

func badSpec(format string, args ...any) error {
	return mvm.Errorf(mvm.KindInvalid, "check the VMM's spec: "+format, args...)
}

// checkPlace refuses a Spec by which no VMM can be found.
func checkPlace(s driver.Spec) error {
	if s.Memory == "" {
		return badSpec("no memory file")
	}
	return rundir.NameOf(s).Check()
}

// launchOf is what is to be started for the Spec, without its files. It refuses what
// can't be.
func launchOf(s driver.Spec, restore bool, on machine) (spawn.Launch, error) {
	l := spawn.Launch{Name: rundir.NameOf(s), UID: s.UID, GID: s.GID, Cgroup: s.Cgroup, Accel: on.accel, NoArchCaps: on.noArchCaps, TSCkHz: on.khz,
		VCPUs: s.VCPUs, MemMiB: s.MemMiB, Restore: restore, Cmdline: s.Cmdline,
		Owner: vmproc.Owner{UID: os.Geteuid(), GID: os.Getegid()}}
	if s.TAP != nil {
		if l.MAC = s.MAC; l.MAC == "" {
			return l, badSpec("a TAP without a MAC")
		}
	}
	for _, d := range s.Disks {
		l.Disks = append(l.Disks, spawn.Disk{Serial: d.Serial, ReadOnly: d.ReadOnly})
	}
	if err := checkPlace(s); err != nil {
		return l, err
	}
	if !filepath.IsAbs(s.Kernel) || s.Initrd != "" && !filepath.IsAbs(s.Initrd) {
		return l, badSpec("kernel %q or initrd %q is not an absolute path", s.Kernel, s.Initrd)
	}
	return l, l.Check()
}
