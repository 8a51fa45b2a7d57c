package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/driver"
)

const (
	machineType = "pc-q35-7.2"
	// nameprefix begins the name by which a VMM is found among all processes.
	namePrefix = "mvm:"
	sandbox    = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
	maxCmdline = 2047 // of the kernel
	maxRunDir  = 90   // leaves room for a socket's name within 107 bytes
)

// files are the open files of a VMM by what they are for; the numbers are those in
// the VMM.
type files struct {
	kernel, initrd      int // 0: none (restore)
	memory              int
	qmp, channel, conso int // listening sockets
	disks               []int
	tap                 int // 0: none
}

// vmmArgs is all that decides about a VMM's arguments.
type vmmArgs struct {
	spec  driver.Spec
	accel string
	khz   int
	bios  string
	fds   files
}

// name marks a VMM's process: it carries the id and RunDir.
func name(spec driver.Spec) string { return namePrefix + spec.ID + ":" + spec.RunDir }

func cpuModel(accel string) string {
	if accel == accelKVM {
		return "host"
	}
	// Enough for what distributions build for, with nothing that TCG is slow at;
	// rdrand lets the guest's random generator start at once.
	return "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
}

// argv returns QEMU's arguments. The vCPUs are never started by them.
func (a vmmArgs) argv() []string {
	s := a.spec
	args := []string{
		"-name", name(s), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", sandbox, "-msg", "timestamp=on",
		"-machine", machineType + ",hpet=off,usb=off,vmport=off,smbus=off,sata=off,i8042=off,graphics=off," +
			"dump-guest-core=off,mem-merge=off,memory-backend=mem",
		"-accel", accelArg(a.accel), "-cpu", cpuModel(a.accel),
		"-smp", fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=1", s.VCPUs, s.VCPUs),
		"-m", fmt.Sprintf("%dM", s.MemMiB),
		"-object", fmt.Sprintf("memory-backend-file,id=mem,share=on,mem-path=%s,size=%dM", fdPath(a.fds.memory), s.MemMiB),
	}
	if a.bios != "" {
		args = append(args, "-bios", a.bios)
	}
	args = append(args, a.sockets()...)
	args = append(args, a.disks()...)
	if a.fds.tap != 0 {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net0,fd=%d", a.fds.tap),
			"-device", "virtio-net-pci,netdev=net0,disable-legacy=on,romfile=,mac="+s.MAC)
	}
	if a.fds.kernel == 0 {
		return append(args, "-incoming", "defer")
	}
	args = append(args, "-kernel", fdPath(a.fds.kernel), "-append", a.cmdline())
	if a.fds.initrd != 0 {
		args = append(args, "-initrd", fdPath(a.fds.initrd))
	}
	return args
}

func (a vmmArgs) sockets() []string {
	sock := func(id string, fd int) []string {
		return []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)}
	}
	args := append(sock("qmp", a.fds.qmp), "-mon", "chardev=qmp,mode=control")
	args = append(append(args, sock("con", a.fds.conso)...), "-serial", "chardev:con")
	return append(append(args, sock("chan", a.fds.channel)...),
		"-device", "virtio-serial-pci,max_ports=2,disable-legacy=on",
		"-device", "virtserialport,nr=1,chardev=chan,name=mvm.0")
}

func (a vmmArgs) disks() []string {
	var args []string
	for i, disk := range a.spec.Disks {
		args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", a.fds.disks[i], i))
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

// cmdline adds to the image's kernel arguments what depends on this VMM. Under TCG
// the time-stamp counter is the host's; telling its rate spares the guest a
// calibration that sometimes hangs.
func (a vmmArgs) cmdline() string {
	s := strings.TrimSpace(a.spec.Cmdline + " console=ttyS0")
	if a.accel != accelKVM && a.khz > 0 {
		s += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable no_timer_check", a.khz)
	}
	return s
}

func accelArg(accel string) string {
	if accel == accelKVM {
		return "kvm"
	}
	return fmt.Sprintf("tcg,thread=multi,tb-size=%d", tcgCacheMiB)
}

// tcgCacheMiB bounds the memory that TCG keeps translated code in.
const tcgCacheMiB = 256

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func badSpec(format string, args ...any) error {
	return mvm.Errorf(mvm.KindInvalid, "check the VMM's spec: "+format, args...)
}

// checkPlace refuses a Spec by which no VMM can be found.
func checkPlace(s driver.Spec) error {
	switch {
	case s.ID == "" || strings.ContainsAny(s.ID, ",:/\n"):
		return badSpec("id %q", s.ID)
	case !filepath.IsAbs(s.RunDir) || strings.ContainsAny(s.RunDir, ",\n"):
		return badSpec("run dir %q is not an absolute path without commas", s.RunDir)
	case len(s.RunDir) > maxRunDir:
		return badSpec("run dir %q is longer than %d bytes", s.RunDir, maxRunDir)
	case s.Memory == "":
		return badSpec("no memory file")
	}
	return nil
}

// checkSpec refuses what QEMU's arguments or the kernel can't express.
func checkSpec(s driver.Spec) error {
	if err := checkPlace(s); err != nil {
		return err
	}
	bad := badSpec
	switch {
	case s.VCPUs < 1 || s.VCPUs > 255:
		return bad("%d vCPUs", s.VCPUs)
	case s.MemMiB < 16:
		return bad("%d MiB of memory", s.MemMiB)
	case !filepath.IsAbs(s.Kernel) || s.Initrd != "" && !filepath.IsAbs(s.Initrd):
		return bad("kernel %q or initrd %q is not an absolute path", s.Kernel, s.Initrd)
	case len(s.Cmdline) > maxCmdline-200:
		return bad("the kernel arguments have %d bytes", len(s.Cmdline))
	case s.TAP != nil && !isMAC(s.MAC):
		return bad("MAC %q", s.MAC)
	}
	for _, disk := range s.Disks {
		if disk.Serial == "" || len(disk.Serial) > 20 || strings.ContainsAny(disk.Serial, ",= \n") {
			return bad("disk serial %q is not 1-20 bytes without ',', '=' and space", disk.Serial)
		}
	}
	return nil
}

func isMAC(s string) bool {
	ok := len(s) == 17
	for i := 0; ok && i < len(s); i++ {
		if i%3 == 2 {
			ok = s[i] == ':'
		} else {
			ok = strings.IndexByte("0123456789abcdefABCDEF", s[i]) >= 0
		}
	}
	return ok
}
