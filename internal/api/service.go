// Package api is the agent's API: what it can be asked (Service), the HTTP server
// that offers it on a unix socket, and the client that the CLI uses. Error kinds
// become statuses, and come back from them, in one place.
package api

import (
	"context"
	"encoding/json"

	"mvm"
	"mvm/internal/build"
)

// Service is everything that the agent can be asked. The agent implements it, the
// Server offers it, and the Client implements it again for callers in another
// process. The asker travels in the context (mvm.WithAsker); errors have mvm kinds.
//
// progress may be called from other goroutines, one call at a time, until the
// method returns; it may be nil.
type Service interface {
	CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error)
	UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (mvm.Tenant, error)
	Tenants(ctx context.Context) ([]mvm.Tenant, error)
	Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error)
	// DestroyTenant destroys its instances, pools, secrets and network. The audit log stays.
	DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error
	// SetSecrets adds and replaces the named secrets (nil value: removes, KindNotFound
	// if it is not there) and gives them to the running guests. It returns the new
	// generation.
	SetSecrets(ctx context.Context, tenant string, secrets map[string][]byte) (int, error)
	// RotateSecrets gives the tenant's secrets a new generation and delivers it.
	RotateSecrets(ctx context.Context, tenant string) (int, error)
	// RotateKey gives the tenant another key for what is encrypted of its sleeping instances.
	RotateKey(ctx context.Context, tenant string) error

	CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error)
	UpdatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (mvm.Pool, error)
	Pools(ctx context.Context, tenant string) ([]mvm.Pool, error) // "" lists every tenant's
	Pool(ctx context.Context, tenant, pool string) (mvm.Pool, error)
	// BuildPool builds the pool's image and makes it the one of new instances. The build goes on
	// when the context ends.
	BuildPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) (mvm.Build, error)
	// StartBuild begins what BuildPool waits for, or joins it where it is under way.
	StartBuild(ctx context.Context, tenant, pool string) (build.Run, error)
	// Builds lists builds of images, newest first; "" lists every tenant's.
	Builds(ctx context.Context, tenant string) ([]build.Run, error)
	BuildRun(ctx context.Context, id string) (build.Run, error)
	// BuildLogs gives the log of a build. Of the spec Tail and Follow count.
	BuildLogs(ctx context.Context, id string, spec mvm.LogsSpec, line func(mvm.LogLine) error) error
	// CancelBuild ends a build. KindState: it has ended.
	CancelBuild(ctx context.Context, id string) (build.Run, error)
	// RollbackPool makes the build before the present one ("" ) or the named one current.
	RollbackPool(ctx context.Context, tenant, pool, build string) (mvm.Build, error)
	// GCPool forgets builds that are neither current, previous nor in use.
	GCPool(ctx context.Context, tenant, pool string) ([]mvm.Build, error)
	DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error

	// CreateInstance makes an instance without starting it; the pool must have a build.
	CreateInstance(ctx context.Context, tenant, pool, key string) (mvm.Instance, error)
	Instances(ctx context.Context, filter mvm.Address) ([]mvm.Instance, error)
	Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error)
	// Why tells how the instance came to its state: its last transitions, oldest first.
	Why(ctx context.Context, addr mvm.Address) (mvm.Story, error)
	// Operate walks the instance to where the operation leads and waits.
	Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error)
	Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, io mvm.ExecIO) (int, error)
	// Copy carries a file or folder in or out, as a stream of package filecopy on stdin or
	// stdout. It returns an exit code: 0, 3 where a path is not there, or 1, with the reason
	// on stderr.
	Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, io mvm.ExecIO) (int, error)
	Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error
	Stats(ctx context.Context, addr mvm.Address) (mvm.InstanceStats, error)
	// Usage measures the instances that hold memory. It asks no guest.
	Usage(ctx context.Context, filter mvm.Address) ([]mvm.InstanceUsage, error)

	// Snapshots lists the snapshots that were set aside because they could not be used.
	Snapshots(ctx context.Context, filter mvm.Address) ([]mvm.AsideSnapshot, error)
	// RestoreSnapshot has a stopped instance sleep with a snapshot that was set aside.
	// KindState, with the reason, when it does not fit the instance any more.
	RestoreSnapshot(ctx context.Context, addr mvm.Address, snapshot string) (mvm.Instance, error)
	// RemoveSnapshot removes a snapshot that was set aside.
	RemoveSnapshot(ctx context.Context, addr mvm.Address, snapshot string) error

	// Messages lists the messages of chats that the tenant's gateways keep, without their text.
	Messages(ctx context.Context, tenant string) ([]mvm.Message, error)
	// Message returns a message of the pool's gateway with its text, which is recorded.
	Message(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error)
	// RetryMessage has a message tried again at once, also one that was set aside.
	RetryMessage(ctx context.Context, tenant, pool string, number int64) error
	// DropMessage gives a message up.
	DropMessage(ctx context.Context, tenant, pool string, number int64) error

	// Apply makes the deployment so, and returns the steps that it took, or would take when dry. It waits
	// until all is as it should be, or only until it is on record.
	Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error)
	// Reconcile makes the host agree with a desired state, or with its own record, and
	// returns the steps that it took, or would take when dry. The whole state is checked
	// before anything changes.
	Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error)
	// Desired returns the state that would make this host again, without secrets.
	Desired(ctx context.Context) (json.RawMessage, error)
	// Events gives the entries of the audit log that the filter chooses, oldest first.
	Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error
	// VerifyEvents follows the audit log's chain. expect, where it is not empty, is the
	// Head of an earlier report, which the log must still have, or have had.
	VerifyEvents(ctx context.Context, expect string) (mvm.AuditReport, error)

	NodeInfo(ctx context.Context) (mvm.NodeInfo, error)
	NodeStats(ctx context.Context) (mvm.NodeStats, error)
	NodeDisk(ctx context.Context) (mvm.NodeDisk, error)
	// NodeCheck compares the files of the host with its records. It changes no record.
	NodeCheck(ctx context.Context, how mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error)
	// NodeGC removes images that nothing uses, and snapshots that were set aside and whose
	// time is over; returns bytes freed.
	NodeGC(ctx context.Context) (int64, error)
	// NetVerify checks the host's isolation; live also tries it from running guests.
	NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error)
	// Doctor checks the host for what mvm needs.
	Doctor(ctx context.Context) ([]mvm.Finding, error)
	// DoctorTenant checks the tenant's channels: its records, and what its gateways and the
	// platforms say.
	DoctorTenant(ctx context.Context, tenant string) ([]mvm.Finding, error)
}
