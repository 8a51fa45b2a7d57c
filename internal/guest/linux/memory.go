package linux

import (
	"runtime/debug"

	"golang.org/x/sys/unix"

	"mvm"
)

// LimitMemory has the garbage collector keep this process within half of the machine's memory,
// where it can: the kernel needs the rest for connections.
func LimitMemory() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return mvm.Errorf(mvm.KindInternal, "find out how much memory there is: %w", err)
	}
	debug.SetMemoryLimit(int64(info.Totalram) * int64(info.Unit) / 2)
	return nil
}
