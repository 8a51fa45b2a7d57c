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

// By how much CoarseTimers lets timers be late: those of the runtime's thread that looks after
// the others, and all.
const (
	timerSlack   = time.Millisecond
	monitorSlack = 10 * time.Millisecond // as rarely as that thread looks where nothing happens
)

// CoarseTimers lets the kernel have this process's timers expire up to a millisecond late,
// together with others, where the machine has one CPU. A thread of Go's runtime looks after
// the others as often as every 20 µs while they have something to do, and takes their CPU
// for it: that one may be late by 10 ms. With more CPUs nothing changes: there the runtime's
// threads sleep for 3 µs and then share the work, and a millisecond would keep a CPU from it.
// Programs that are started later have it too.
func CoarseTimers() error {
	if runtime.NumCPU() > 1 {
		return nil
	}
	coarse, monitor := map[string]bool{}, 0
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
			if err := setSlack(id, timerSlack); err != nil {
				return err
			}
			if n, _ := strconv.Atoi(id); n != os.Getpid() && (monitor == 0 || n < monitor) {
				monitor = n // the runtime starts it first
			}
		}
	}
	if monitor == 0 {
		return nil
	}
	return setSlack(strconv.Itoa(monitor), monitorSlack)
}

func setSlack(thread string, slack time.Duration) error {
	err := os.WriteFile(filepath.Join("/proc", thread, "timerslack_ns"), strconv.AppendInt(nil, slack.Nanoseconds(), 10), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) { // the thread has ended
		return mvm.Errorf(mvm.KindInternal, "let timers be late: %w", err)
	}
	return nil
}
