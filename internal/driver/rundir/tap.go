package rundir

import (
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TAPName asks the kernel for the name of the interface behind a TAP's file.
func TAPName(f *os.File) string {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	_ = raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) })
	if err != nil {
		return ""
	}
	return ifr.Name()
}

// TAPBytes counts what the guest received and sent. The kernel is asked in the process's
// own network namespace, which /sys need not be of.
func TAPBytes(tap string) (received, sent int64) {
	if tap == "" {
		return 0, 0
	}
	link, err := netlink.LinkByName(tap)
	if err != nil || link.Attrs().Statistics == nil {
		return 0, 0
	}
	s := link.Attrs().Statistics
	return int64(s.TxBytes), int64(s.RxBytes) // what the host sends the guest receives
}
