package linux

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"mvm"
)

// timerSlack is by how much CoarseTimers lets timers be late.
const timerSlack = time.Millisecond

// CoarseTimers lets the kernel have this process's timers expire up to a millisecond late,
// together with others, where the machine has one CPU. A thread of Go's runtime looks after
// the others as often as every 20 µs while they have something to do, and takes their CPU
// for it. With more CPUs nothing changes: there the runtime's threads sleep for 3 µs and
// then share the work, and a millisecond would keep a CPU from it.
// Programs that are started later have it too.
func CoarseTimers() error {
	if runtime.NumCPU() > 1 {
		return nil
	}
	coarse := map[string]bool{}
	for more := true; more; { // a thread has it from the one that began it, which may not have had it yet
		threads, err := filepath.Glob("/proc/self/task/*")
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "list threads: %w", err)
		}
		more = false
		for _, dir := range threads {
			id := filepath.Base(dir)
			if coarse[id] {
				continue
			}
			coarse[id], more = true, true
			err := os.WriteFile(filepath.Join("/proc", id, "timerslack_ns"), strconv.AppendInt(nil, timerSlack.Nanoseconds(), 10), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) { // the thread has ended
				return mvm.Errorf(mvm.KindInternal, "let timers be late: %w", err)
			}
		}
	}
	return nil
}
