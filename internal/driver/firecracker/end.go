package firecracker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
)

// Close lets go of the VMM, which runs on. It waits for everything that was
// started here. Done is not closed any more. It is idempotent.
func (v *vmm) Close() error {
	v.mu.Lock()
	closed := v.closed
	v.closed = true
	v.mu.Unlock()
	if closed {
		return nil
	}
	return v.release()
}

// release ends everything that was started here.
func (v *vmm) release() error {
	v.proc.Interrupt()
	v.watching.Wait()
	return errors.Join(v.closeParts(), v.proc.Close())
}

// closeParts closes what is held beside the process.
func (v *vmm) closeParts() error {
	var err error
	if v.ch != nil {
		err = v.ch.Close()
	}
	v.mu.Lock()
	con, counts := v.con, v.metrics
	v.mu.Unlock()
	if con != nil {
		con.Stop()
	}
	if counts != nil {
		counts.stop()
	}
	v.log.Close()
	return err
}

// Kill ends Firecracker at once and waits until it is gone.
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
	close(v.gone)
	v.mu.Lock()
	con, rec := v.con, v.rec
	v.lastWords = v.log.Tail()
	v.mu.Unlock()
	if con != nil {
		con.Drain()
	}
	v.exit = v.explainExit(code, sig, known)
	errs := []error{v.closeParts()}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	f, err := rundir.Lock(v.spec.RunDir)
	if err == nil { // else another holder of this VMM does it, or the next one of the instance is there
		errs = append(errs, v.reclaimMemory(), removeStaging(v.spec, rec))
	}
	if !mvm.IsKind(err, mvm.KindState) { // else somebody starts the next one, in the same cgroup
		errs = append(errs, v.d.host.Leave(ctx, rundir.NameOf(v.spec), v.spec.Cgroup, rec.Cgroups))
	}
	if err == nil {
		errs = append(errs, v.d.keep.RemoveFiles(v.spec.RunDir), rundir.Unlock(v.spec.RunDir, f))
	}
	if err := errors.Join(errs...); err != nil {
		v.d.log.Warn("clean up after the VMM", "instance", v.spec.ID, "error", err)
	}
}

// resetMark is what Linux says last before it resets the machine.
const resetMark = "reboot: "

// explainExit says how Firecracker ended. It exits with 0 when the guest resets, and with
// other codes for faults of its own. Where its status went to the process that had started
// it, the guest's own words must do.
func (v *vmm) explainExit(code int, sig syscall.Signal, known bool) driver.Exit {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := driver.Exit{Code: code, Signal: int(sig)}
	if v.con != nil {
		e.Panic = v.con.Panicked()
	}
	reset := v.con != nil && (e.Panic != "" || v.con.Said(resetMark))
	switch {
	case !v.killed && sig == 0 && (known && code == 0 || !known && reset):
		e.Guest, e.Detail = true, "guest-reset"
	case v.killed:
		e.Detail = "killed by its agent"
	case sig != 0:
		e.Detail = fmt.Sprintf("ended by signal %d (%v) from outside", sig, sig)
	case known:
		e.Detail = fmt.Sprintf("exited with code %d", code)
	default:
		e.Detail = "VMM exited; status unknown"
	}
	if !e.Guest {
		e.Panic = ""
	}
	if v.lastWords != "" && !e.Guest && !v.killed {
		e.Detail += ": " + strings.TrimSpace(v.lastWords)
	}
	return e
}

// reclaimMemory removes a memory file that is worth nothing any more. It has that of a
// snapshot hold all of the memory.
func (v *vmm) reclaimMemory() error {
	v.mu.Lock()
	state, snap := v.memory, v.saved
	v.mu.Unlock()
	switch {
	case state == memoryLive:
		return removeMemory(v.spec)
	case snap != nil:
		return settle(v.spec, *snap)
	}
	return nil
}
