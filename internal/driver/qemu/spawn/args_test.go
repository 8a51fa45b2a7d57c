package spawn_test

import (
	"slices"
	"strings"
	"testing"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
)

// TestArgs has all of QEMU's arguments by their whole values: a flag that lost a part, such
// as one of the sandbox's, breaks no guest.
func TestArgs(t *testing.T) {
	boot := spawn.Launch{Name: vmproc.Name{ID: "i-00000001", RunDir: "/run/mvm/i/i-00000001"}, Mark: "00000000000000aa", Accel: spawn.AccelTCG,
		VCPUs: 2, MemMiB: 512, TSCkHz: 2000000, Cmdline: "quiet", MAC: "02:fc:00:00:00:01",
		Disks: []spawn.Disk{{Serial: "root", ReadOnly: true}, {Serial: "data"}}}
	wake := spawn.Launch{Name: boot.Name, Accel: spawn.AccelKVM, VCPUs: 1, MemMiB: 256, Restore: true}
	common := func(name, accel, cpu, smp, mem string) []string {
		return []string{"-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
			"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-msg", "timestamp=on",
			"-machine", "pc-q35-7.2,hpet=off,usb=off,vmport=off,smbus=off,sata=off,i8042=off,graphics=off,dump-guest-core=off,mem-merge=off,memory-backend=mem",
			"-accel", accel, "-cpu", cpu, "-smp", smp, "-m", mem,
			"-object", "memory-backend-file,id=mem,share=off,mem-path=/proc/self/fd/5,size=" + mem,
			"-chardev", "socket,id=qmp,fd=6,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
			"-chardev", "socket,id=con,fd=8,server=on,wait=off", "-serial", "chardev:con",
			"-chardev", "socket,id=chan,fd=7,server=on,wait=off", "-device", "virtio-serial-pci,max_ports=2,disable-legacy=on",
			"-device", "virtserialport,nr=1,chardev=chan,name=mvm.0"}
	}
	disk := func(fd, set, serial, readOnly string) []string {
		return []string{"-add-fd", "fd=" + fd + ",set=" + set,
			"-blockdev", `{"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/` + set + `","read-only":` + readOnly +
				`},"node-name":"disk` + set + `","read-only":` + readOnly + `}`,
			"-device", "virtio-blk-pci,drive=disk" + set + ",serial=" + serial + ",disable-legacy=on"}
	}
	const tcg = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
	numbers := spawn.Numbers{Memory: 5, QMP: 6, Channel: 7, Console: 8}
	booting := numbers
	booting.Kernel, booting.Initrd, booting.TAP, booting.Disks = 3, 4, 11, []int{9, 10}
	for name, c := range map[string]struct {
		got, want []string
	}{
		"a boot": {boot.Args(booting), slices.Concat(
			common("mvm:i-00000001:00000000000000aa:/run/mvm/i/i-00000001", "tcg,thread=multi,tb-size=256", tcg, "cpus=2,sockets=1,cores=2,threads=1", "512M"),
			disk("9", "0", "root", "true"), disk("10", "1", "data", "false"),
			[]string{"-netdev", "tap,id=net0,fd=11", "-device", "virtio-net-pci,netdev=net0,disable-legacy=on,romfile=,mac=02:fc:00:00:00:01",
				"-kernel", "/proc/self/fd/3", "-append", "panic=-1 quiet console=ttyS0 tsc_early_khz=2000000 tsc=reliable no_timer_check",
				"-initrd", "/proc/self/fd/4"})},
		"a wake": {wake.Args(numbers), append(
			common("mvm:i-00000001:/run/mvm/i/i-00000001", "kvm", "host", "cpus=1,sockets=1,cores=1,threads=1", "256M"), "-incoming", "defer")},
	} {
		got := c.got
		if n := slices.Index(got, "-bios"); n >= 0 { // where the host has that firmware
			if got[n+1] != "qboot.rom" {
				t.Errorf("%s: firmware %q", name, got[n+1])
			}
			got = slices.Delete(slices.Clone(got), n, n+2)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}
