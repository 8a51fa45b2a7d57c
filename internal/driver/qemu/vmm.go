package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/qmp"
	"mvm/internal/sys"
)

// memoryState says what the memory file is worth when the VMM ends.
type memoryState int

const (
	memoryUnknown memoryState = iota // recovered while paused: leave it
	memoryLive                       // the guest ran on: worth nothing
	memorySaved                      // together with the device state a snapshot
)

// vmm is one QEMU process that the agent holds.
type vmm struct {
	d    *Driver
	spec driver.Spec
	proc *sys.Process
	rec  record
	ch   *channel.Channel
	con  *console

	watching sync.WaitGroup
	done     chan struct{} // closed when the process is gone and its files too
	exit     driver.Exit   // set before done is closed

	cmd sync.Mutex // one of Pause, Resume, Snapshot and load at a time

	qmu    sync.Mutex // guards q and closed; held while a connection is made
	q      *qmp.Client
	closed bool

	mu        sync.Mutex  // guards what follows; never held while waiting
	shutdown  *shutdown   // why QEMU says that it ends
	migration chan string // gets the states of a migration under way
	memory    memoryState
}

type shutdown struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

var _ driver.VMM = (*vmm)(nil)

var errGone = errors.New("the VMM is gone")

func newVMM(d *Driver, spec driver.Spec, p *sys.Process, rec record) *vmm {
	return &vmm{d: d, spec: spec, proc: p, rec: rec, done: make(chan struct{})}
}

// connect greets QEMU on the connection.
func (v *vmm) connect(ctx context.Context, conn *net.UnixConn) error {
	q, err := qmp.New(ctx, conn, v.onEvent)
	if err != nil {
		return err
	}
	v.qmu.Lock()
	defer v.qmu.Unlock()
	v.q = q
	return nil
}

// qmpTimeout bounds one command that does no work in the VMM.
const qmpTimeout = 20 * time.Second

// do executes a control command, over a new connection when the old one is lost.
func (v *vmm) do(ctx context.Context, command string, args, out any) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	q, err := v.client(ctx)
	if err != nil {
		return err
	}
	return q.Do(ctx, command, args, out)
}

func (v *vmm) client(ctx context.Context) (*qmp.Client, error) {
	v.qmu.Lock()
	defer v.qmu.Unlock()
	if v.closed {
		return nil, mvm.Errorf(mvm.KindState, "the VMM was let go")
	}
	if v.q != nil {
		select {
		case <-v.q.Done():
		default:
			return v.q, nil
		}
	}
	select {
	case <-v.done:
		return nil, mvm.Errorf(mvm.KindUnavailable, "%w: %s", errGone, v.exit.Detail)
	default:
	}
	conn, err := dialUnix(ctx, filepath.Join(v.spec.RunDir, qmpSock))
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "connect to the VMM: %w", err)
	}
	q, err := qmp.New(ctx, conn, v.onEvent)
	if err == nil {
		v.q = q
	}
	return q, err
}

// dialUnix connects to a socket of QEMU, whose backlog is short: it may be full of
// connections that QEMU has yet to see closed.
func dialUnix(ctx context.Context, path string) (*net.UnixConn, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// onEvent is called by the control connection for everything that QEMU tells.
func (v *vmm) onEvent(e qmp.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		var s shutdown
		if json.Unmarshal(e.Data, &s) == nil {
			v.shutdown = &s
		}
	case "MIGRATION":
		var m struct{ Status string }
		if json.Unmarshal(e.Data, &m) == nil && v.migration != nil {
			select {
			case v.migration <- m.Status:
			default: // more states than a migration has
			}
		}
	}
}

// PID returns QEMU's process id.
func (v *vmm) PID() int { return v.proc.PID }

// Done is closed when QEMU is gone and reaped, and its files in RunDir are removed.
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
	v.proc.Interrupt()
	v.watching.Wait()
	v.ch.Close()
	v.con.stop()
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

func (v *vmm) end(ctx context.Context) error {
	if err := v.proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, sys.ErrNoProcess) {
		return mvm.Errorf(mvm.KindInternal, "kill the VMM of %s: %w", v.spec.ID, err)
	}
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return mvm.Errorf(mvm.KindTimeout, "wait for the killed VMM of %s: %w", v.spec.ID, context.Cause(ctx))
	}
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
	v.con.drain()
	v.ch.Close()
	v.exit = v.explainExit(code, sig, known)
	var errs []error
	errs = append(errs, v.settleMemory(), sys.LeaveCgroup(v.rec.Cgroups))
	if f, err := lock(v.spec.RunDir); err == nil { // else somebody starts the next one
		errs = append(errs, removeFiles(v.spec.RunDir), unlock(f))
	}
	if err := errors.Join(errs...); err != nil {
		v.d.log.Warn("clean up after the VMM", "instance", v.spec.ID, "err", err)
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
	switch {
	case e.Guest:
	case sig != 0:
		e.Detail = fmt.Sprintf("killed by signal %d (%v)", sig, sig)
	case known:
		e.Detail = fmt.Sprintf("exited with code %d", code)
	case e.Detail == "":
		e.Detail = "ended; its status went to the process that had started it"
	}
	if said := tail(v.spec.RunDir); said != "" && !e.Guest {
		e.Detail += ": " + said
	}
	return e
}

// settleMemory removes a memory file that is worth nothing any more, and gives
// back the unused part of one that belongs to a snapshot.
func (v *vmm) settleMemory() error {
	v.mu.Lock()
	state := v.memory
	v.mu.Unlock()
	if state == memoryLive {
		err := os.Remove(v.spec.Memory)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return releasePath(v.spec.Memory)
}

func (v *vmm) setMemory(s memoryState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.memory = s
}

// explain adds to an error of a VMM that ended what it said before.
func (v *vmm) explain(err error) error {
	if said := tail(v.spec.RunDir); said != "" {
		return mvm.Errorf(mvm.KindOf(err), "%w: QEMU says: %s", err, said)
	}
	return err
}

// Dial opens a stream to a port of the guest.
func (v *vmm) Dial(ctx context.Context, port uint32) (net.Conn, error) { return v.ch.Dial(ctx, port) }

// Powerdown presses the machine's power button.
func (v *vmm) Powerdown(ctx context.Context) error {
	return v.do(ctx, "system_powerdown", nil, nil)
}

// Stats measures the process, the TAP and the disks. What can't be measured is 0.
func (v *vmm) Stats(ctx context.Context) (driver.Stats, error) {
	select {
	case <-v.done:
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", errGone)
	default:
	}
	p, err := v.proc.Stats()
	if err != nil {
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", err)
	}
	s := driver.Stats{CPU: p.CPU, RSSBytes: p.RSS}
	s.RxBytes = tapCounter(v.rec.TAP, "tx_bytes") // what the host sends the guest receives
	s.TxBytes = tapCounter(v.rec.TAP, "rx_bytes")
	var blocks []struct {
		Stats struct {
			Read    int64 `json:"rd_bytes"`
			Written int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if len(v.spec.Disks) > 0 {
		if err := v.do(ctx, "query-blockstats", nil, &blocks); err != nil {
			return s, err
		}
	}
	for _, b := range blocks {
		s.DiskRead += b.Stats.Read
		s.DiskWrit += b.Stats.Written
	}
	return s, nil
}

func tapCounter(tap, name string) int64 {
	if tap == "" || tap != filepath.Base(tap) {
		return 0
	}
	b, err := os.ReadFile(filepath.Join("/sys/class/net", tap, "statistics", name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}
