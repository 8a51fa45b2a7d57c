// Package ingress is how requests reach instances: what guests ask of their host, which
// instance a request means and that it is awake, what gateways are told and say of use, and
// the ports of the host that lead to gateways.
package ingress

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Instances are the instances of the host and their guests.
type Instances interface {
	// HasVMM reports that the instance has a virtual machine, and Lives that this has not
	// ended.
	HasVMM(id string) bool
	Lives(id string) bool
	// HalfDone reports that an operation left the instance half done.
	HalfDone(id string) bool
	// Ask asks the instance's guest.
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
	// GaveUp is the service of a running instance for which it is no use to wait; nil:
	// none. Stalled says why its VM stands still; "": it does not.
	GaveUp(i mvm.Instance) *mvm.ServiceHealth
	Stalled(id string) string
	// Reported takes in what a guest says of its services.
	Reported(i mvm.Instance, st guestproto.Status)
	// ListenHost listens on the instance's host-bound socket, and RemoveHostSocket removes
	// it.
	ListenHost(id string) (net.Listener, error)
	RemoveHostSocket(id string) error
}

// Queue takes operations on instances.
type Queue interface {
	// Wake has the instance run and its services ready.
	Wake(ctx context.Context, id string, by mvm.Asker, why string) (mvm.Instance, error)
	// Reclaim destroys an instance that has not served its key.
	Reclaim(ctx context.Context, id string, by mvm.Asker, why string) error
	// CallOff ends what the idle policy wants of the instance, where that is not committed.
	CallOff(id string)
	// ServesNobody reports that an instance runs and a service of it does not come up.
	ServesNobody(err error) bool
}

// Fleet makes instances.
type Fleet interface {
	// NewInstance records an instance for the key, within the quota.
	NewInstance(tx *store.Tx, tenant, pool, key string, op mvm.Op) (mvm.Instance, error)
	// Changed says that an instance came: networks differ.
	Changed()
}

// Deliver gives a guest its configuration.
type Deliver interface {
	Push(ctx context.Context, i mvm.Instance) error
	// Owe has it delivered later, where the instance runs then.
	Owe(id string)
}

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Journal records what was refused.
type Journal interface{ Record(mvm.Event) }

// Metrics counts guests' requests.
type Metrics interface {
	HostBound(request, result string)
	Messages(kind mvm.ChannelKind, result string, n int)
}

// Options are what an ingress is made of. All of them are required.
type Options struct {
	Instances Instances
	Queue     Queue
	Fleet     Fleet
	Deliver   Deliver
	Store     Store
	Journal   Journal
	Metrics   Metrics
	Publisher Publisher
	Log       *slog.Logger
	// Call bounds one answer to a guest.
	Call time.Duration
	// DialGuest connects to a port of a guest over its tenant's network.
	DialGuest func(ctx context.Context, network, addr string) (net.Conn, error)
	// Recovered is closed once all instances are taken up: published connections wait for
	// it.
	Recovered <-chan struct{}
}

// Ingress is how requests reach instances. All methods may be called concurrently.
type Ingress struct {
	opt   Options
	life  context.Context // of questions that nobody waits for
	group wait.Group

	activity    activityTable
	execs       useCounts // commands that run in guests
	published   useCounts // connections from published ports
	acquiring   useCounts // gateways' questions that wait for them
	newKeys     newKeys
	forwards    forwards    // the connections of published
	publishing  wait.Locks  // one Publish at a time
	unpublished atomic.Bool // the last one failed
	// unreconciled are gateways that may have missed that an instance is gone.
	unreconciled wait.Pending
}

// New makes an ingress, whose listeners and questions end with life.
func New(life context.Context, opt Options) *Ingress { return &Ingress{opt: opt, life: life} }

// Close waits for questions that nobody waits for. Its life has to be over.
func (in *Ingress) Close() { in.group.Close() }
