// Package declare puts on record what people declare: a deployment of one tenant, or the
// desired state of a whole host. It plans what that changes, changes the records, waits for
// reconcile to make it so, and holds the host to a state that is to be kept.
package declare

import (
	"context"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Records are the tenants and pools of the host, as they are declared, and their instances.
type Records interface {
	Tenants(ctx context.Context) ([]mvm.Tenant, error)
	Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error)
	CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error)
	UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (mvm.Tenant, error)
	DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error
	// TryTenants returns, by tenant, why those of the specs that are not there could not be
	// made once the tenants going are destroyed. It changes nothing.
	TryTenants(ctx context.Context, specs []mvm.TenantSpec, going []string) (map[string]error, error)

	// Secrets opens the tenant's secrets, and SecretsHash names them by a keyed hash; "": it
	// has none.
	Secrets(tenant string) (map[string][]byte, error)
	SecretsHash(t mvm.Tenant, sealed []byte) (string, error)
	// ReplaceSecrets makes them the tenant's only secrets.
	ReplaceSecrets(ctx context.Context, tenant string, vals map[string][]byte) error

	CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) error
	// UpdatePoolLater changes a pool that is as was says; its guests are told later, see
	// Deliver.
	UpdatePoolLater(ctx context.Context, at mvm.Address, spec, was mvm.PoolSpec) error
	DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error

	// StopAll shuts down every instance below the address, gateways before the others.
	StopAll(ctx context.Context, below mvm.Address, progress func(mvm.Progress)) error
	// TakeOver ends the overrides of all instances below the address.
	TakeOver(ctx context.Context, below mvm.Address) error
}

// Reconcile makes tenants what is on record.
type Reconcile interface {
	// Observe reads all of a tenant, and what is under way.
	Observe(tenant string) (plan.Observed, error)
	// Pause keeps passes over the tenant from beginning, until resume: changes of its
	// records are between two of them.
	Pause(tenant string) (resume func())
	// Changed says that something about the tenant or its pool changed.
	Changed(tenant, pool string)
	// Converge waits until the tenant is as it should be.
	Converge(ctx context.Context, tenant string, progress func(mvm.Progress)) ([]mvm.PlanStep, error)
	// Problems are what is wrong with the tenant now, which no step of a plan mends.
	Problems(ctx context.Context, tenant string) ([]error, error)
	// Backoff is how long to wait after so many failures in a row.
	Backoff(fails int) time.Duration
}

// Deliver gives guests what they are owed.
type Deliver interface {
	Owed(ctx context.Context, tenants []string)
}

// Store has the records, and what is remembered of states.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Journal records what was declared.
type Journal interface {
	Append(ctx context.Context, tx *store.Tx, e mvm.Event) error
}

// Options are what a declarer is made of. All but File and Trust are required.
type Options struct {
	Records   Records
	Reconcile Reconcile
	Deliver   Deliver
	Store     Store
	Journal   Journal
	Log       *slog.Logger
	// NodeID is the host's name.
	NodeID func() (string, error)
	// File, where given, has the desired state that the host is held to.
	File string
	// Trust says which desired states the host believes.
	Trust Trust
	// Seam is called before each change of a record.
	Seam func(point, tenant string) error
}

// Declarer puts on record what people declare. All methods may be called concurrently, but
// for Hold and Follow.
type Declarer struct {
	opt    Options
	states wait.Locks // one desired state at a time
	file   desiredFile
	told   map[string]string // of Hold: what the log says already, by tenant
}

// New makes a declarer.
func New(opt Options) *Declarer {
	return &Declarer{opt: opt, file: desiredFile{path: opt.File}, told: map[string]string{}}
}
