package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"mvm"
)

// timerSlack is by how much CoarseTimers lets timers be late.
const timerSlack = time.Millisecond

// CoarseTimers lets the kernel have this process's timers expire up to a millisecond late,
// together with others. A thread of Go's runtime looks after the others as often as every
// 20 µs while they have something to do; where the machine has one CPU it takes theirs.
// Programs that are started later have it too.
func CoarseTimers() error {
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "list threads: %w", err)
	}
	for _, dir := range threads {
		path := filepath.Join("/proc", filepath.Base(dir), "timerslack_ns")
		err := os.WriteFile(path, strconv.AppendInt(nil, timerSlack.Nanoseconds(), 10), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) { // the thread has ended
			return mvm.Errorf(mvm.KindInternal, "let timers be late: %w", err)
		}
	}
	return nil
}
