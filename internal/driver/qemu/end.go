package qemu

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
)

// Close lets go of the VMM, which runs on. It waits for everything that was
// started here. Done is not closed any more. It is idempotent.
func (v *vmm) Close() error {
	v.qmu.Lock()
	q, closed := v.q, v.closed
	v.closed = true
	v.qmu.Unlock()
	if closed {
		return nil
	}
	close(v.letGo)
	v.proc.Interrupt()
	v.watching.Wait()
	v.ch.Close()
	v.con.Stop()
	v.setBase(nil)
	v.log.Close()
	if q != nil {
		q.Close()
	}
	return v.proc.Close()
}

// Kill ends QEMU at once and waits until it is gone.
func (v *vmm) Kill(ctx context.Context) error {
	if err := v.d.seam("kill.signal"); err != nil {
		return err
	}
	return v.end(ctx)
}

// end is Kill without its seam.
func (v *vmm) end(ctx context.Context) error {
	v.mu.Lock()
	v.killed = true
	v.mu.Unlock()
	return rundir.Kill(ctx, v.spec.ID, v.proc, v.done)
}

// watch waits for the end of the process and then cleans up after it.
func (v *vmm) watch() {
	v.watching.Go(v.endStalls)
	v.watching.Go(func() {
		code, sig, known, err := v.proc.Wait()
		if err != nil { // let go
			return
		}
		v.finish(code, sig, known)
		close(v.done)
	})
}

// leaveTimeout bounds the removal of a VMM's cgroups.
const leaveTimeout = 10 * time.Second

// finish takes in what the VMM left and removes its files.
func (v *vmm) finish(code int, sig syscall.Signal, known bool) {
	v.qmu.Lock()
	q := v.q
	v.qmu.Unlock()
	if q != nil { // it reads to the end what QEMU said last
		select {
		case <-q.Done():
		case <-time.After(time.Second):
			q.Close()
		}
	}
	v.con.Drain()
	v.ch.Close()
	v.setBase(nil)
	v.mu.Lock()
	v.lastWords = lastWords(v.log)
	v.mu.Unlock()
	v.log.Close()
	v.exit = v.explainExit(code, sig, known)
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	f, err := rundir.Lock(v.spec.RunDir)
	errs = append(errs, v.reclaimMemory())
	if !mvm.IsKind(err, mvm.KindState) { // else somebody starts the next one, in the same cgroup
		errs = append(errs, v.d.host.Leave(ctx, rundir.NameOf(v.spec), v.spec.Cgroup, v.rec.Cgroups))
	}
	if err == nil {
		errs = append(errs, v.d.keep.RemoveFiles(v.spec.RunDir), rundir.Unlock(v.spec.RunDir, f))
	}
	if err := errors.Join(errs...); err != nil {
		v.d.log.Warn("clean up after the VMM", "instance", v.spec.ID, "error", err)
	}
}

func (v *vmm) explainExit(code int, sig syscall.Signal, known bool) driver.Exit {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := driver.Exit{Code: code, Signal: int(sig)}
	if v.shutdown != nil {
		e.Guest = v.shutdown.Guest
		e.Detail = v.shutdown.Reason
	}
	if e.Guest && e.Detail != "guest-shutdown" {
		e.Panic = v.con.Panicked()
	}
	switch {
	case e.Guest:
	case v.proc.Refused() != "":
		e.Detail = fmt.Sprintf("mvm ended it: it made the system call %s, which its seccomp filter refuses", v.proc.Refused())
	case v.killed:
		e.Detail = "killed by its agent"
	case sig == syscall.SIGSYS:
		e.Detail = "ended by QEMU's own seccomp filter (SIGSYS); the kernel's log names the system call: journalctl -k --grep type=1326"
	case sig != 0:
		e.Detail = fmt.Sprintf("ended by signal %d (%v) from outside", sig, sig)
	case known:
		e.Detail = fmt.Sprintf("exited with code %d", code)
	case e.Detail == "":
		e.Detail = "ended; its status went to the process that had started it"
	}
	if v.lastWords != "" && !e.Guest && !v.killed {
		e.Detail += ": " + v.lastWords
	}
	return e
}

// reclaimMemory removes a memory file that is worth nothing any more.
func (v *vmm) reclaimMemory() error {
	v.mu.Lock()
	state := v.memory
	v.mu.Unlock()
	if state == memoryWorthless {
		return removeMemory(v.spec)
	}
	return releaseMemory(v.spec)
}

func (v *vmm) setMemory(s memoryState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.memory = s
}
