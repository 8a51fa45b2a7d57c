package qemu

import (
	"os"

	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
	"mvm/internal/sys"
)

// ProbeInitrd and ProbeMark let a test boot the guest of the KVM probe.
var ProbeInitrd = probeInitrd

const ProbeMark = probeMark

// RestoreArgs are QEMU's arguments for a restore of an instance without disks and
// network, with the memory and the listening sockets as open files.
func RestoreArgs(spec driver.Spec, memory, qmp, channel, console int) []string {
	l := spawn.Launch{Name: rundir.NameOf(spec), Accel: accelTCG, VCPUs: spec.VCPUs, MemMiB: spec.MemMiB, Restore: true}
	return l.Args(spawn.Numbers{Memory: memory, QMP: qmp, Channel: channel, Console: console})
}

// ErrPages says that a file of pages is damaged.
var ErrPages = errPages

// ApplyPages puts a file of pages into a memory file, as older versions did.
func ApplyPages(f, memory *os.File, size int64) error {
	r, err := readPages(f, size)
	if err != nil {
		return err
	}
	return r.each(func(run pagesRun, data []byte) error {
		if data == nil {
			data = make([]byte, int(run.Count)*sys.PageSize)
		}
		_, err := memory.WriteAt(data, int64(run.Page)*sys.PageSize)
		return err
	})
}
