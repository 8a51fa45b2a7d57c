package lifecycle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Journal records what did not go as wanted. What went so is in the transaction of the
// operation's end.
type Journal interface{ Record(e mvm.Event) }

// Metrics is told of every operation at its end, of failed ones with the error.
type Metrics interface {
	Operation(t mvm.Transition, err error)
}

// Driver starts VMMs.
type Driver interface {
	Info(ctx context.Context) (driver.Info, error)
	Start(ctx context.Context, s driver.Spec) (driver.VMM, error)
	Restore(ctx context.Context, s driver.Spec, from driver.Snapshot) (driver.VMM, error)
}

// VMM is a virtual machine that is followed.
type VMM interface {
	Driver() driver.VMM
	// Expect says that its end is the agent's doing, and Died reports that it ended otherwise.
	Expect()
	Died() bool
}

// VMMs are those of the host. Of one instance, what changes them is called one after the
// other.
type VMMs interface {
	// Of is the instance's, nil where it has none. Lives reports that it has not ended, and
	// Stalled why it stands still though nobody paused it; "": it does not.
	Of(id string) VMM
	Lives(id string) bool
	Stalled(id string) string
	// Bootable says why the instance can't boot from its image.
	Bootable(ctx context.Context, i mvm.Instance) error
	// Launch makes one by start, a Start of the driver when it boots, or a Restore.
	Launch(ctx context.Context, i mvm.Instance, boots bool, start func(driver.Spec) (driver.VMM, error)) error
	// TakeUp takes up one that outlived the agent.
	TakeUp(ctx context.Context, i mvm.Instance) (alive, paused bool, err error)
	// Release ends it, with everything that is held for it. It can run twice.
	Release(ctx context.Context, i mvm.Instance) error
	// Follow has its guest's log followed after the delay.
	Follow(id string, delay time.Duration)
}

// Guests answer.
type Guests interface {
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
}

// Networks are those of the host.
type Networks interface {
	// Changed says that instances came or went, and Apply makes the kernel agree.
	Changed()
	Apply(ctx context.Context) error
}

// Use says who uses an instance.
type Use struct {
	Active    int       // requests under way at gateways
	Open      int       // connections of gateways, with those that are quiet
	Last      time.Time // last bytes
	Execs     int       // commands that run in it
	Published int       // of a gateway: connections to its published ports
}

// Ingress is how requests reach instances.
type Ingress interface {
	// Fence keeps new requests away from the instance, and returns what gateways have under
	// way. Use is what is known without asking them.
	Fence(ctx context.Context, i mvm.Instance) Use
	Use(id string) Use
	// Gone ends every connection to the instance, whose memory is lost; GoneSoon does not
	// wait for gateways. Doubt asks a gateway to whom it has connections.
	Gone(ctx context.Context, i mvm.Instance)
	GoneSoon(i mvm.Instance)
	Doubt(gateway string)
	// Forget drops what is known of an instance that is gone.
	Forget(id string)
}

// Deliver gives guests their configuration.
type Deliver interface {
	// Config is the instance's; Lock keeps others from giving it one meanwhile.
	Config(i mvm.Instance, reason string) (guestproto.Configure, error)
	Lock(id string) (unlock func())
	// Push gives it now, and Owe later. Later is Owe for all of a tenant.
	Push(ctx context.Context, i mvm.Instance) error
	Owe(id string)
	Later(tenant string) error
}

// Health is how services are.
type Health interface {
	// Status asks the guest, and Of is what is known; nil: nothing.
	Status(ctx context.Context, i mvm.Instance) (guestproto.Status, error)
	Of(i mvm.Instance) *mvm.Health
	// GaveUp is the service for which it is no use to wait; nil: none. ServiceError says so.
	GaveUp(i mvm.Instance) *mvm.ServiceHealth
	ServiceError(what string, i mvm.Instance, s mvm.ServiceHealth, lines []string) *mvm.Error
	// NoteIntegrations asks for the state of integrations and records it.
	NoteIntegrations(ctx context.Context, i mvm.Instance)
	// Forget drops what is known of an instance that is gone.
	Forget(id string)
}

// Logs are what guests wrote last.
type Logs interface {
	LastLines(ctx context.Context, id, service string) []string
	LastConsole(id string) []string
}

// Quota admits what counts against a tenant's quota, within a transaction.
type Quota interface {
	AdmitRunning(tx *store.Tx, i mvm.Instance) error
	AdmitWarm(tx *store.Tx, i mvm.Instance) error
	AdmitDisk(tx *store.Tx, was, now mvm.Instance) error
}

// IDs are made of random digits, and not taken.
type IDs interface {
	NewID(prefix string, taken func(id string) (bool, error)) (string, error)
}

// Aside keeps snapshots that were set aside.
type Aside interface {
	// Bound removes those beyond the limits.
	Bound() (freed int64)
}

// Reconcile is told what happened to instances.
type Reconcile interface {
	// Lost says that the instance's VMM ended by itself, and Operated that operations of the
	// tenant ended.
	Lost(i mvm.Instance)
	Operated(tenant string)
}

// Schedule wakes instances for what their workloads want to do next.
type Schedule interface {
	// Rests returns the next wake that goes on record of an instance which goes to rest, of
	// what its guest said. Changed says that an operation on an instance has ended.
	Rests(id string, at time.Time) time.Time
	Changed(i mvm.Instance)
}

// Idle is told that instances changed.
type Idle interface{ Poke() }
