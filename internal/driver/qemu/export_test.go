package qemu

import "mvm/internal/driver"

// ProbeInitrd and ProbeMark let a test boot the guest of the KVM probe.
var ProbeInitrd = probeInitrd

const ProbeMark = probeMark

// RestoreArgs are QEMU's arguments for a restore of an instance without disks and
// network, with the memory and the listening sockets as open files.
func RestoreArgs(spec driver.Spec, memory, qmp, channel, console int) []string {
	bios := ""
	if d, err := New(Options{StateDir: spec.Dir}); err == nil {
		bios = d.bios
	}
	a := vmmArgs{spec: spec, accel: accelTCG, bios: bios,
		fds: files{memory: memory, qmp: qmp, channel: channel, conso: console}}
	return a.argv()
}
