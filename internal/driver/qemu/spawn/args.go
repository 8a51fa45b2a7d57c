package spawn

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// MachineType is the machine that guests see, as device states name it.
const MachineType = machineType

const (
	machineType = "pc-q35-7.2"
	sandbox     = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
	// tcgCacheMiB bounds the memory that TCG keeps translated code in.
	tcgCacheMiB = 256
	// qboot boots a PVH kernel 200 ms sooner than the default firmware.
	qboot = "qboot.rom"
)

// Machine describes the machine that guests of such a Launch see: a snapshot fits no other.
// Accel and NoArchCaps count.
func (l Launch) Machine() string {
	return strings.TrimSpace(machineType + " " + l.cpuModel() + " " + firmware())
}

// firmware is a file that QEMU finds, "" for its default.
func firmware() string {
	if _, err := os.Stat("/usr/share/qemu/" + qboot); err != nil {
		return ""
	}
	return qboot
}

// Numbers are the numbers that a VMM's files have in the VMM; 0: none.
type Numbers struct {
	Kernel, Initrd        int
	Memory                int
	QMP, Channel, Console int
	Disks                 []int
	TAP                   int
}

func (l Launch) cpuModel() string {
	switch {
	case l.NoArchCaps:
		return "host,-arch-capabilities"
	case l.Accel == AccelKVM:
		return "host"
	}
	// Enough for what distributions build for, with nothing that TCG is slow at;
	// rdrand lets the guest's random generator start at once.
	return "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
}

// Args returns QEMU's arguments. The vCPUs are never started by them.
func (l Launch) Args(n Numbers) []string {
	args := []string{
		"-name", l.Name.Marked(l.Mark), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", sandbox, "-msg", "timestamp=on",
		"-machine", machineType + ",hpet=off,usb=off,vmport=off,smbus=off,sata=off,i8042=off,graphics=off," +
			"dump-guest-core=off,mem-merge=off,memory-backend=mem",
		"-accel", accelArg(l.Accel), "-cpu", l.cpuModel(),
		"-smp", fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=1", l.VCPUs, l.VCPUs),
		"-m", fmt.Sprintf("%dM", l.MemMiB),
		"-object", fmt.Sprintf("memory-backend-file,id=mem,share=off,mem-path=%s,size=%dM", fdPath(n.Memory), l.MemMiB),
	}
	if bios := firmware(); bios != "" {
		args = append(args, "-bios", bios)
	}
	args = append(args, sockets(n)...)
	args = append(args, l.disks(n)...)
	if n.TAP != 0 {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net0,fd=%d", n.TAP),
			"-device", "virtio-net-pci,netdev=net0,disable-legacy=on,romfile=,mac="+l.MAC)
	}
	if n.Kernel == 0 {
		return append(args, "-incoming", "defer")
	}
	args = append(args, "-kernel", fdPath(n.Kernel), "-append", l.cmdline())
	if n.Initrd != 0 {
		args = append(args, "-initrd", fdPath(n.Initrd))
	}
	return args
}

func sockets(n Numbers) []string {
	sock := func(id string, fd int) []string {
		return []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)}
	}
	args := append(sock("qmp", n.QMP), "-mon", "chardev=qmp,mode=control")
	args = append(append(args, sock("con", n.Console)...), "-serial", "chardev:con")
	return append(append(args, sock("chan", n.Channel)...),
		"-device", "virtio-serial-pci,max_ports=2,disable-legacy=on",
		"-device", "virtserialport,nr=1,chardev=chan,name=mvm.0")
}

func (l Launch) disks(n Numbers) []string {
	var args []string
	for i, disk := range l.Disks {
		args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", n.Disks[i], i))
		node, _ := json.Marshal(map[string]any{ // cannot fail
			"driver": "raw", "node-name": fmt.Sprintf("disk%d", i), "read-only": disk.ReadOnly, "discard": "unmap",
			"file": map[string]any{"driver": "file", "filename": fmt.Sprintf("/dev/fdset/%d", i),
				"read-only": disk.ReadOnly, "discard": "unmap"},
		})
		args = append(args, "-blockdev", string(node),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=%s,disable-legacy=on", i, disk.Serial))
	}
	return args
}

// cmdline adds to the image's kernel arguments what depends on this VMM. A kernel that
// panics ends, unless the image says otherwise: it would stand still for good. Under TCG
// the time-stamp counter is the host's; telling its rate spares the guest a
// calibration that sometimes hangs.
func (l Launch) cmdline() string {
	s := "panic=-1 " + strings.TrimSpace(l.Cmdline+" console=ttyS0")
	if l.Accel != AccelKVM && l.TSCkHz > 0 {
		s += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable no_timer_check", l.TSCkHz)
	}
	return s
}

func accelArg(accel string) string {
	if accel == AccelKVM {
		return "kvm"
	}
	return fmt.Sprintf("tcg,thread=multi,tb-size=%d", tcgCacheMiB)
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
