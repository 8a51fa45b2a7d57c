package qemu

import (
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
)

// ProbeInitrd and ProbeMark let a test boot the guest of the KVM probe.
var ProbeInitrd = probeInitrd

const ProbeMark = probeMark

// RestoreArgs are QEMU's arguments for a restore of an instance without disks and
// network, with the memory and the listening sockets as open files.
func RestoreArgs(spec driver.Spec, memory, qmp, channel, console int) []string {
	l := spawn.Launch{Name: nameOf(spec), Accel: accelTCG, VCPUs: spec.VCPUs, MemMiB: spec.MemMiB, Restore: true}
	return l.Args(spawn.Numbers{Memory: memory, QMP: qmp, Channel: channel, Console: console})
}
