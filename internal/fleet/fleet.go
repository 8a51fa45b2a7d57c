// Package fleet has the tenants, pools and instances of a host as records: what they are,
// what a tenant's quota admits, their addresses, users and ids, and tenants' secrets. It
// changes records and tells the parts that act on them; only a destruction goes further, and
// is finished when it was cut off.
package fleet

import (
	"context"
	"io"
	"log/slog"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/image"
	"mvm/internal/network"
	"mvm/internal/store"
	"mvm/internal/tenantkey"
	"mvm/internal/wait"
)

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
	// Fleet counts the instances by pool and state.
	Fleet() []mvm.FleetCount
}

// Journal records what was changed and refused.
type Journal interface {
	Append(ctx context.Context, tx *store.Tx, e mvm.Event) error
	Record(e mvm.Event)
}

// Networks are those of the host.
type Networks interface {
	// Changed says that tenants or instances came or went, and Apply makes the kernel agree.
	Changed()
	Apply(ctx context.Context) error
	// Occupied is what the host itself has of addresses and routes.
	Occupied(ctx context.Context) ([]network.Range, error)
	// Sweep removes what no tenant owns.
	Sweep(ctx context.Context) ([]string, error)
}

// Builds make images for pools. See package builds.
type Builds interface {
	Start(ctx context.Context, at mvm.Address, req image.Request) (build.Run, error)
	Wait(ctx context.Context, id string, at mvm.Address, progress func(mvm.Progress)) (mvm.Build, error)
	// Of is the id of the build for which a pool waits.
	Of(at mvm.Address) string
	// Drop is told that a pool or a tenant is destroyed.
	Drop(ctx context.Context, at mvm.Address) error
}

// Images are booted from.
type Images interface {
	// Check refuses what names no image.
	Check(ref string) error
	// Bootable says why the instance can't boot from its image.
	Bootable(ctx context.Context, i mvm.Instance) error
}

// Queue runs operations on instances, and waits for their end.
type Queue interface {
	Stop(ctx context.Context, id, why string, progress func(mvm.Progress)) error
	Destroy(ctx context.Context, id, why string, progress func(mvm.Progress)) error
}

// Reconcile makes tenants what is on record.
type Reconcile interface {
	// Changed says that something about the tenant or its pool changed.
	Changed(tenant, pool string)
	// Parallel is how many instances it operates on at once.
	Parallel() int
}

// Ports are the published ones.
type Ports interface {
	// Publish makes the host's listeners agree with the pools.
	Publish() error
}

// Limits bound what VMMs take from the host.
type Limits interface {
	// Changed says that those of the instances below may be others now.
	Changed(ctx context.Context, below mvm.Address)
}

// Deliver gives guests their configuration: now, or later.
type Deliver interface {
	Tenant(ctx context.Context, tenant string) error
	Later(tenant string) error
}

// Watch knows of instances what is not on record.
type Watch interface {
	Observe(i *mvm.Instance)
}

// Sealer keeps secrets at rest; see package secrets.
type Sealer interface {
	Seal(tenant string, generation int, values map[string][]byte) ([]byte, error)
	Open(tenant string, generation int, sealed []byte) (map[string][]byte, error)
	Hash(tenant string, values map[string][]byte) (string, error)
	ChannelKey(tenant, pool, channel string) ([]byte, error)
	NewTenantKey(tenant string) (key *tenantkey.Key, sealed []byte, err error)
	OpenTenantKey(tenant string, sealed []byte) (*tenantkey.Key, error)
}

// Options are what a fleet is made of. All of them are required.
type Options struct {
	Store     Store
	Journal   Journal
	Networks  Networks
	Images    Images
	Builds    Builds
	Queue     Queue
	Reconcile Reconcile
	Ports     Ports
	Limits    Limits
	Deliver   Deliver
	Watch     Watch
	Sealer    Sealer
	Sleepers  Sleepers
	Log       *slog.Logger
	// Rand is where ids come from. It is safe for concurrent use.
	Rand io.Reader
}

// Fleet changes records. All methods may be called concurrently.
type Fleet struct {
	opt   Options
	admin wait.Locks // one change of a tenant and its pools at a time
}

// New makes a fleet.
func New(opt Options) *Fleet { return &Fleet{opt: opt} }
