package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/console"
	"mvm/internal/driver/qemu/qmp"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// memoryState says what the memory file of an older version is worth when the VMM ends.
type memoryState int

const (
	memoryUnknown   memoryState = iota // recovered while paused: leave it
	memoryWorthless                    // the guest ran on, or its memory is in a snapshot
	memorySaved                        // it is that of a snapshot
)

// vmm is one QEMU process that the agent holds.
type vmm struct {
	d         *Driver
	spec      driver.Spec
	proc      vmproc.Process
	rec       rundir.Record
	unlimited error // why it was started without limits; set before others know it
	log       *rundir.Log
	own       own // what rec has of the driver's; cmd guards it
	ch        *channel.Channel
	con       *console.Console

	watching sync.WaitGroup
	done     chan struct{} // closed when the process is gone and its files too
	exit     driver.Exit   // set before done is closed
	letGo    chan struct{} // closed by Close
	stalled  chan struct{} // gets a value when the guest stalls

	cmd     sync.Mutex // one of Pause, Resume, Snapshot, load and trim at a time
	trimmed int64      // how much memory the VMM had when pages were last given back; cmd guards it

	qmu    sync.Mutex // guards q and closed; held while a connection is made
	q      *qmp.Client
	closed bool

	mu        sync.Mutex  // guards what follows; never held while waiting
	shutdown  *shutdown   // why QEMU says that it ends
	killed    bool        // by this agent
	lastWords string      // of QEMU, once it has ended
	migration chan string // gets the states of a migration under way
	memory    memoryState
	base      *os.File  // below the guest's memory; nil: it has none, or another agent made it
	stopped   time.Time // when the vCPUs last stood still, and ran again; zero: not seen
	resumed   time.Time
	still     bool // its guest stands still for want of disk space
}

type shutdown struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

var (
	_ driver.VMM     = (*vmm)(nil)
	_ driver.Greeter = (*vmm)(nil)
	_ driver.Clocked = (*vmm)(nil)
	_ driver.Staller = (*vmm)(nil)
)

var errGone = errors.New("the VMM is gone")

func newVMM(d *Driver, spec driver.Spec, p vmproc.Process, rec rundir.Record, log *rundir.Log) *vmm {
	return &vmm{d: d, spec: spec, proc: p, rec: rec, log: log, own: ownOf(rec), done: make(chan struct{}),
		letGo: make(chan struct{}), stalled: make(chan struct{}, 1)}
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

// endWait is how long QEMU may take to be gone once its control connection is lost.
const endWait = 5 * time.Second

// do executes a control command, over a new connection when the old one is lost. When it
// failed because QEMU ended, done is closed by then, unless QEMU takes longer than endWait.
func (v *vmm) do(ctx context.Context, command string, args, out any) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	q, err := v.client(ctx)
	if err != nil {
		v.awaitEnd(ctx)
		return err
	}
	err = q.Do(ctx, command, args, out)
	select {
	case <-q.Done():
		v.awaitEnd(ctx)
	default:
	}
	return err
}

// awaitEnd waits for the end of a QEMU whose control connection is lost.
func (v *vmm) awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	select {
	case <-v.done:
	case <-v.letGo:
	case <-ctx.Done():
	}
}

func (v *vmm) client(ctx context.Context) (*qmp.Client, error) {
	v.qmu.Lock()
	defer v.qmu.Unlock()
	if v.closed {
		return nil, mvm.Errorf(mvm.KindState, "the VMM handle was closed")
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
	conn, err := v.dialSocket(ctx, qmpSock)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "connect to the VMM: %w", err)
	}
	q, err := qmp.New(ctx, conn, v.onEvent)
	if err == nil {
		v.q = q
	}
	return q, err
}

// peer is who listens on the VMM's sockets: the agent's user made them, and QEMU has
// taken them over.
func (v *vmm) peer() sys.Peer { return sys.Peer{UID: v.spec.UID, PID: v.PID()} }

// dialSocket connects to a socket of QEMU.
func (v *vmm) dialSocket(ctx context.Context, name string) (conn *net.UnixConn, err error) {
	err = sys.InFolder(v.spec.RunDir, func(d *sys.Folder) (err error) {
		conn, err = d.Dial(ctx, name, v.peer())
		return err
	})
	return conn, err
}

// onEvent is called by the control connection for everything that QEMU tells.
func (v *vmm) onEvent(e qmp.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Name {
	case "STOP":
		v.stopped = e.At
	case "RESUME":
		v.resumed = e.At
		v.still = false
	case "BLOCK_IO_ERROR":
		var b struct{ Action string }
		if json.Unmarshal(e.Data, &b) == nil && b.Action == "stop" {
			v.still = true
			v.stall()
		}
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

// Stopped returns when QEMU says that the vCPUs stood still; its answer to Pause
// comes only when the disks are flushed.
func (v *vmm) Stopped() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stopped
}

// Resumed returns when QEMU says that the vCPUs ran again.
func (v *vmm) Resumed() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.resumed
}

// PID returns QEMU's process id.
func (v *vmm) PID() int {
	pid, _ := v.proc.ID()
	return pid
}

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

// explain adds to an error of a VMM that ended what it said before, and what the host
// lacks where it said that.
func (v *vmm) explain(err error) error { return explain(err, v.said()) }

// said is what QEMU said last. It is known after its end too, when its log is gone.
func (v *vmm) said() string {
	if words := lastWords(v.log); words != "" {
		return words
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lastWords
}

func explain(err error, said string) error {
	if said == "" {
		return err
	}
	kind := mvm.KindOf(err)
	if errno, lacks := sys.FaultIn(said); lacks {
		err = fmt.Errorf("%w: %w", err, errno)
	}
	return mvm.Errorf(kind, "%w: QEMU says: %s", err, said)
}

// Dial opens a stream to a port of the guest.
func (v *vmm) Dial(ctx context.Context, port uint32) (net.Conn, error) { return v.ch.Dial(ctx, port) }

// Greet passes a greeting to a guest that was just restored.
func (v *vmm) Greet(ctx context.Context, body []byte) ([]byte, error) { return v.ch.Greet(ctx, body) }

// Powerdown presses the machine's power button.
func (v *vmm) Powerdown(ctx context.Context) error {
	return v.do(ctx, "system_powerdown", nil, nil)
}
