package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/console"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// memoryState says what the memory file is worth when the VMM ends.
type memoryState int

const (
	memoryUnknown memoryState = iota // recovered while paused: leave it
	memoryLive                       // the guest ran on: worth nothing
	memorySaved                      // it is that of a snapshot
)

// vmm is one Firecracker process that the agent holds.
type vmm struct {
	d    *Driver
	spec driver.Spec
	proc vmproc.Process
	log  *rundir.Log
	api  *api.Client
	ch   *channel.Vsock
	gone chan struct{} // closed when the process is gone, before done: it ends dials

	watching sync.WaitGroup
	done     chan struct{} // closed when the process is gone and its files too
	exit     driver.Exit   // set before done is closed

	cmd sync.Mutex // one of Pause, Resume and Snapshot at a time

	mu        sync.Mutex // guards what follows; never held while waiting
	rec       rundir.Record
	con       *console.Console // nil: not followed yet
	metrics   *metrics
	closed    bool
	killed    bool // by this agent
	lastWords string
	memory    memoryState
	saved     *driver.Snapshot // that the VMM stands at; nil: none that is known
}

var (
	_ driver.VMM     = (*vmm)(nil)
	_ driver.Limiter = (*vmm)(nil)
)

var errGone = errors.New("the VMM is gone")

// endWait is how long Firecracker may take to be gone once it does not answer any more.
const endWait = 5 * time.Second

func newVMM(d *Driver, spec driver.Spec, p vmproc.Process, rec rundir.Record, log *rundir.Log) *vmm {
	v := &vmm{d: d, spec: spec, proc: p, rec: rec, log: log, done: make(chan struct{}), gone: make(chan struct{})}
	v.api = api.New(v.dialAPI)
	return v
}

// follow copies the guest's console into its log, and counts what Firecracker counts. It
// owns the pipes.
func (v *vmm) follow(con, counts *os.File) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.con = console.Start(con, v.spec.Dir, v.spec.Console, v.d.log.With("instance", v.spec.ID))
	v.metrics = readMetrics(counts)
}

// errCutOff says of a VMM that its start or restore was cut off.
var errCutOff = errors.New("its start was cut off")

// takeUp holds a VMM that runs already. It owns p.
func (d *Driver) takeUp(ctx context.Context, spec driver.Spec, p vmproc.Process, rec rundir.Record) (_ *vmm, err error) {
	v := newVMM(d, spec, p, rec, rundir.OpenLog(spec.RunDir))
	defer func() {
		if err != nil {
			err = errors.Join(err, v.closeParts(), p.Close())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	info, err := v.api.Describe(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "recover the VMM of %s: %w", spec.ID, err)
	}
	if info.State == api.NotStarted {
		return nil, errCutOff
	}
	var con, counts *os.File
	err = dirOf(spec, func(d *sys.Folder) (err error) {
		if con, err = d.OpenPipe(consolePipe); err != nil {
			return err
		}
		counts, err = d.OpenPipe(metricsPipe)
		return err
	})
	if con != nil && counts != nil {
		v.follow(con, counts)
	} else if con != nil {
		con.Close()
	}
	if err != nil {
		return nil, mvm.Explain("recover the VMM of "+spec.ID, err)
	}
	v.ch, err = channel.ListenVsock(channel.VsockOptions{RunDir: spec.RunDir, Shared: dirName, GID: spec.GID, Gone: v.gone,
		VMM: sys.Peer{UID: spec.UID, PID: v.PID()}, Log: d.log.With("instance", spec.ID)})
	if err != nil {
		return nil, err
	}
	if info.State == api.Running {
		v.memory = memoryLive
	}
	v.watch()
	return v, nil
}

// recoverTimeout bounds the wait for a VMM's first answer.
const recoverTimeout = 10 * time.Second

// Unlimited is described at driver.Limiter. Its cgroup has the limits from the start, or the
// host can't limit CPU time.
func (v *vmm) Unlimited() error { return nil }

// Limit is described at driver.Limiter. It limits CPU time alone.
func (v *vmm) Limit(ctx context.Context, l mvm.Limits) error {
	return v.proc.LimitCPU(ctx, vmproc.CPUOf(l))
}

// PID returns Firecracker's process id.
func (v *vmm) PID() int {
	pid, _ := v.proc.ID()
	return pid
}

// Done is closed when Firecracker is gone and reaped, and its files in RunDir are removed.
func (v *vmm) Done() <-chan struct{} { return v.done }

// Exit says how it ended. For a VMM that another process started the code is not known: 0.
func (v *vmm) Exit() driver.Exit {
	select {
	case <-v.done:
		return v.exit
	default:
		return driver.Exit{}
	}
}

// ask asks Firecracker. Where it failed because Firecracker ended, done is closed by then,
// unless that takes longer than endWait.
func (v *vmm) ask(ctx context.Context, fn func() error) error {
	v.mu.Lock()
	closed := v.closed
	v.mu.Unlock()
	if closed {
		return mvm.Errorf(mvm.KindState, "the VMM handle was closed")
	}
	err := fn()
	if err == nil || !v.lost(ctx, err) {
		return err
	}
	return mvm.Errorf(mvm.KindUnavailable, "%w: %s", errGone, v.exit.Detail)
}

// lost reports that Firecracker is gone, after a request failed with err.
func (v *vmm) lost(ctx context.Context, err error) bool {
	var fault *api.FaultError
	if errors.As(err, &fault) { // it answered
		return v.isDone()
	}
	wait := endWait
	if v.alive() { // or just about to end
		wait = endWait / 20
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case <-v.done:
		return true
	case <-ctx.Done():
		return v.isDone()
	}
}

func (v *vmm) isDone() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// alive reports that the process is there: it can be connected to.
func (v *vmm) alive() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := v.dialAPI(ctx)
	if err != nil {
		return !isRefused(err)
	}
	conn.Close()
	return true
}

// isRefused reports that nobody listens on the socket, or that it is not there.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// state asks for the state of the vCPUs.
func (v *vmm) state(ctx context.Context) (state string, err error) {
	err = v.ask(ctx, func() error {
		info, err := v.api.Describe(ctx)
		state = info.State
		return err
	})
	return state, err
}

// Paused reports whether the vCPUs are paused.
func (v *vmm) Paused(ctx context.Context) (bool, error) {
	s, err := v.state(ctx)
	return s == api.Paused || s == api.NotStarted, err
}

// Pause stops the vCPUs. It is idempotent.
func (v *vmm) Pause(ctx context.Context) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	if err := v.d.seam("pause.vm"); err != nil {
		return err
	}
	return v.ask(ctx, func() error { return v.api.SetState(ctx, api.Paused) })
}

// Resume lets the vCPUs run, after a Pause, a Snapshot (which no longer fits then) or a
// Restore. It is idempotent.
func (v *vmm) Resume(ctx context.Context) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	if err := v.d.seam("resume.vm"); err != nil {
		return err
	}
	v.setMemory(memoryLive)
	return v.ask(ctx, func() error { return v.api.SetState(ctx, api.Resumed) })
}

// Powerdown presses Ctrl-Alt-Del: Firecracker's machine has no power button.
func (v *vmm) Powerdown(ctx context.Context) error {
	return v.ask(ctx, func() error { return v.api.Act(ctx, api.SendCtrlAltDel) })
}

// Dial opens a stream to a port of the guest.
func (v *vmm) Dial(ctx context.Context, port uint32) (net.Conn, error) { return v.ch.Dial(ctx, port) }

func (v *vmm) setMemory(s memoryState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.memory, v.saved = s, nil
}

// said is what Firecracker said last. It is known after its end too, when its log is gone.
func (v *vmm) said() string {
	if words := v.log.Tail(); words != "" {
		return words
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lastWords
}

// explain adds to an error of a VMM that failed what it said before, and what the host
// lacks where it said that. A refusal of a request of the driver's own is no fault of its
// caller.
func (v *vmm) explain(err error) error {
	if driver.BadSnapshot(err) {
		return err
	}
	kind := mvm.KindOf(err)
	var fault *api.FaultError
	words := v.said()
	if errors.As(err, &fault) {
		kind = mvm.KindUnavailable
		words = fault.Message + " " + words
	}
	if errno, lacks := sys.FaultIn(words); lacks {
		err = fmt.Errorf("%w: %w", err, errno)
	}
	if said := v.said(); said != "" {
		return mvm.Errorf(kind, "%w: Firecracker says: %s", err, said)
	}
	return mvm.Errorf(kind, "%w", err)
}

// stateRefused are the words by which Firecracker refuses a device state.
var stateRefused = []string{"Failed to load snapshot state from file", "Invalid snapshot state", "CRC64 validation failed"}

// loadError says whether a load that failed is about the snapshot. It is when Firecracker
// says that it can't take the state, or crashes over it, and does not name a lack of the
// host. After a failed load it ends, in any case.
func (v *vmm) loadError(ctx context.Context, err error) error {
	said := err.Error() + " " + v.said()
	var fault *api.FaultError
	refused := errors.As(err, &fault)
	if !refused && !v.lost(ctx, err) { // it lives, and does not answer
		return err
	}
	if errno, lacks := sys.FaultIn(said); lacks {
		return mvm.Errorf(mvm.KindUnavailable, "load the snapshot of %s: %w", v.spec.ID, fmt.Errorf("%w: %w", errno, err))
	}
	for _, words := range stateRefused {
		if refused && strings.Contains(fault.Message, words) {
			return rundir.BadSnapshot("load the snapshot of %s: %w", v.spec.ID, err)
		}
	}
	if !refused && v.exit.Signal == int(syscall.SIGABRT) {
		return rundir.BadSnapshot("load the snapshot of %s: Firecracker crashed: %w", v.spec.ID, err)
	}
	return mvm.Errorf(mvm.KindUnavailable, "load the snapshot of %s: %w", v.spec.ID, err)
}
