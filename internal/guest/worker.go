package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Times of asking the workload.
const (
	busyTimeout = 4 * time.Second       // for a Busy URL to answer; the host waits 5 s
	drainPoll   = 50 * time.Millisecond // while draining
)

// worker remembers when the workload was last seen busy.
type worker struct {
	mu       sync.Mutex
	lastBusy time.Time
}

// busy tells whether the workload is busy, with the reason. It is when the flag
// worker-busy is there and not older than worker-idle, or a ready service's Busy
// URL says so or does not answer: a sleep must not cut off work that can't be seen.
func (a *Agent) busy(ctx context.Context) (bool, string) {
	reason := a.busyFlag()
	for _, d := range a.sup.ReadyOnes(func(d workload.Service) bool { return d.Busy != "" }) {
		if reason != "" {
			break
		}
		if !a.suspension.isHeld(d.Name) { // it would have said so when it was asked to hold still
			reason = a.askBusy(ctx, d)
		}
	}
	if reason != "" {
		a.worker.saw(time.Now())
	}
	return reason != "", reason
}

// inUse tells whether the workload is busy or the router has something under way, with
// the reason.
func (a *Agent) inUse(ctx context.Context) (bool, string) {
	busy, why := a.busy(ctx)
	if busy || a.router == nil {
		return busy, why
	}
	n := a.router.Active()
	if n > 0 {
		a.worker.saw(time.Now())
	}
	return n > 0, fmt.Sprintf("%d requests are under way", n)
}

func (w *worker) saw(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.After(w.lastBusy) {
		w.lastBusy = t
	}
}

// busyFlag reads the flags. When the workload went idle after it was busy, it was
// busy until then.
func (a *Agent) busyFlag() string {
	busy, idle := mtime(filepath.Join(a.paths.Run, "worker-busy")), mtime(filepath.Join(a.paths.Run, "worker-idle"))
	switch {
	case busy.IsZero():
		return ""
	case idle.After(busy):
		a.worker.saw(idle)
		return ""
	}
	return "worker-busy is set"
}

func mtime(path string) time.Time {
	st, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// askBusy returns why a service is busy, "" when it is not. Beside that the service may say
// when it has something to do next.
func (a *Agent) askBusy(ctx context.Context, d workload.Service) string {
	ctx, cancel := context.WithTimeout(ctx, busyTimeout)
	defer cancel()
	b, err := workload.HTTPGet(ctx, d.Busy)
	if err != nil {
		return fmt.Sprintf("%s does not say whether it is busy: %v", d.Name, err)
	}
	var answer struct {
		Busy     *bool  `json:"busy"`
		Reason   string `json:"reason"`
		Trouble  string `json:"trouble"`
		NextWake string `json:"next_wake"`
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Busy == nil {
		return fmt.Sprintf("%s does not answer {\"busy\":…} at %s", d.Name, d.Busy)
	}
	a.nextWake.said(d.Name, answer.NextWake)
	a.sup.Trouble(d.Name, workload.Clip(answer.Trouble))
	switch {
	case !*answer.Busy:
		return ""
	case answer.Reason == "":
		return d.Name + " says so"
	}
	return d.Name + ": " + workload.Clip(answer.Reason)
}

func (a *Agent) workerStatus(ctx context.Context) guestproto.WorkerStatus {
	s := guestproto.WorkerStatus{Status: "idle"}
	if busy, why := a.inUse(ctx); busy {
		s.Status, s.Reason = "busy", why
	}
	a.worker.mu.Lock()
	defer a.worker.mu.Unlock()
	if !a.worker.lastBusy.IsZero() {
		t := a.worker.lastBusy.UTC()
		s.LastBusyAt = &t
	}
	return s
}

// sleepPrep waits until the workload is idle and the router has nothing under way,
// at most for the timeout, and then writes what is dirty to the disks in any case.
// The error says what was still going on.
func (a *Agent) sleepPrep(ctx context.Context, timeout time.Duration) error {
	err := a.drain(ctx, timeout)
	a.sys.Sync()
	return err
}

func (a *Agent) drain(ctx context.Context, timeout time.Duration) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		busy, why := a.inUse(ctx)
		if !busy {
			return nil
		}
		select {
		case <-time.After(drainPoll):
		case <-deadline.C:
			return fmt.Errorf("not drained within %s: %s", timeout, why)
		case <-ctx.Done():
			return fmt.Errorf("drain given up by the host: %s", why)
		}
	}
}

// chownFromRoot gives a folder that belongs to root to the user.
func chownFromRoot(dir string, st fs.FileInfo, user workload.User) error {
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Uid != 0 {
		return nil
	}
	return os.Chown(dir, user.UID, user.GID)
}
