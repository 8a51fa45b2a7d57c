// Package lifecycle changes instances. Whoever asks for a change (a person, a gateway's wake,
// the policy, reconcile, recovery) goes through the instance's runner: one queue, one
// operation at a time, equal requests joined into one. An operation is a list of named steps,
// a file for each; its intent is durable before the first step acts. What
// fails half-way is repaired by the next operation, or by Run.
//
// What the steps act on (VMMs, networks, gateways, guests' configuration, records of others)
// is behind the interfaces of asks.go.
package lifecycle

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Options are what a lifecycle is made of. All of them are required.
type Options struct {
	Store     Store
	Journal   Journal
	Metrics   Metrics
	Driver    Driver
	VMMs      VMMs
	Guests    Guests
	Networks  Networks
	Ingress   Ingress
	Deliver   Deliver
	Health    Health
	Logs      Logs
	Quota     Quota
	IDs       IDs
	Aside     Aside
	Reconcile Reconcile
	Idle      Idle
	Schedule  Schedule
	Folders   folders.Folders
	Log       *slog.Logger
	Timeouts  Timeouts
	// Now is the time of day, as guests are told it and records have it; default time.Now.
	Now func() time.Time
	// KeepAside is how long a snapshot that was set aside is kept.
	KeepAside time.Duration
	// MakeDisk makes the empty file an ext4 disk of the size.
	MakeDisk func(ctx context.Context, f *os.File, mib int) error
	// Seam is called before and after every step, with its name and the instance. An error
	// fails the step.
	Seam func(point, instance string) error
}

// Timeouts bound what operations wait for.
type Timeouts struct {
	Boot  time.Duration // VMM start to the guest agent's first answer, default 180 s
	Ready time.Duration // to every service ready, default 900 s
	Gate  time.Duration // one try of the resume gate, default 20 s
	Call  time.Duration // one request to a guest, default 10 s
}

// WithDefaults are the timeouts with the defaults where none is given.
func (t Timeouts) WithDefaults() Timeouts {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Boot, 180*time.Second)
	def(&t.Ready, 900*time.Second)
	def(&t.Gate, 20*time.Second)
	def(&t.Call, 10*time.Second)
	return t
}

// Lifecycle runs the operations of a host's instances. All methods may be called
// concurrently.
type Lifecycle struct {
	opt   Options
	life  context.Context // operations run under it
	log   *slog.Logger
	store Store
	group wait.Group

	mu      sync.Mutex
	runners map[string]*runner // by instance id; there while jobs are queued
	closed  bool

	halfDone   wait.Pending // instances that an operation left half done
	clocks     wait.Pending // instances whose guest's clock may be wrong
	wakeFaults wakeFaults
}

// ErrClosing is the cause by which the end of an agent ends operations.
var ErrClosing = mvm.Away("the agent is shutting down")

// New makes a lifecycle that does nothing yet. Its operations end with life: each takes back
// what it has half done.
func New(life context.Context, opt Options) *Lifecycle {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Lifecycle{opt: opt, life: life, log: opt.Log, store: opt.Store, runners: map[string]*runner{}}
}

// Stop takes no request any more.
func (l *Lifecycle) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// Close waits for operations that are under way. Its life has to be over.
func (l *Lifecycle) Close() {
	l.Stop()
	l.group.Close()
}

// instance reads the record of an instance.
func (l *Lifecycle) instance(id string) (i mvm.Instance, err error) {
	err = l.store.View(func(tx *store.Tx) error {
		i, err = tx.Instance(id)
		return err
	})
	return i, err
}
