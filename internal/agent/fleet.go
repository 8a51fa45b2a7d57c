package agent

import (
	"context"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/builds"
	"mvm/internal/fleet"
	"mvm/internal/image"
	"mvm/internal/lifecycle"
	"mvm/internal/netstate"
	"mvm/internal/network"
)

// commanded is what the fleet asks of the agent's operations.
type commanded struct{ a *Agent }

var _ fleet.Queue = commanded{}

// Stop implements fleet.Queue.
func (c commanded) Stop(ctx context.Context, id, why string, progress func(mvm.Progress)) error {
	_, err := c.a.lifecycle.Submit(ctx, id, lifecycle.Request{Op: mvm.OpStop, By: mvm.AskerFrom(ctx), Why: why}, progress)
	return err
}

// Destroy implements fleet.Queue.
func (c commanded) Destroy(ctx context.Context, id, why string, progress func(mvm.Progress)) error {
	_, err := c.a.lifecycle.Submit(ctx, id, lifecycle.Request{Op: mvm.OpDestroy, By: mvm.AskerFrom(ctx), Why: why}, progress)
	return err
}

// images are the host's, as the fleet asks for them.
type images struct {
	image.Store
	a *Agent
}

var _ fleet.Images = images{}

// Bootable implements fleet.Images.
func (i images) Bootable(ctx context.Context, of mvm.Instance) error {
	return i.a.live.Bootable(ctx, of)
}

// networks are the host's, as the fleet asks for them.
type networks struct {
	*netstate.Networks
	net network.Network
}

var _ fleet.Networks = networks{}

// Occupied implements fleet.Networks.
func (n networks) Occupied(ctx context.Context) ([]network.Range, error) { return n.net.Occupied(ctx) }

// Sweep implements fleet.Networks.
func (n networks) Sweep(ctx context.Context) ([]string, error) { return n.net.Sweep(ctx) }

// CreateTenant implements api.Service.
func (a *Agent) CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	return a.fleet.CreateTenant(ctx, spec)
}

// UpdateTenant implements api.Service.
func (a *Agent) UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (mvm.Tenant, error) {
	return a.fleet.UpdateTenant(ctx, id, up)
}

// Tenants implements api.Service.
func (a *Agent) Tenants(ctx context.Context) ([]mvm.Tenant, error) { return a.fleet.Tenants(ctx) }

// Tenant implements api.Service.
func (a *Agent) Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	return a.fleet.Tenant(ctx, id)
}

// DestroyTenant implements api.Service.
func (a *Agent) DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error {
	return a.fleet.DestroyTenant(ctx, id, progress)
}

// SetSecrets implements api.Service.
func (a *Agent) SetSecrets(ctx context.Context, tenant string, changes map[string][]byte) (int, error) {
	return a.fleet.SetSecrets(ctx, tenant, changes)
}

// RotateSecrets implements api.Service.
func (a *Agent) RotateSecrets(ctx context.Context, tenant string) (int, error) {
	return a.fleet.RotateSecrets(ctx, tenant)
}

// CreatePool implements api.Service.
func (a *Agent) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error) {
	return a.fleet.CreatePool(ctx, tenant, spec)
}

// UpdatePool implements api.Service.
func (a *Agent) UpdatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (mvm.Pool, error) {
	return a.fleet.UpdatePool(ctx, tenant, pool, up)
}

// Pools implements api.Service.
func (a *Agent) Pools(ctx context.Context, tenant string) ([]mvm.Pool, error) {
	return a.fleet.Pools(ctx, tenant)
}

// Pool implements api.Service.
func (a *Agent) Pool(ctx context.Context, tenant, pool string) (mvm.Pool, error) {
	return a.fleet.Pool(ctx, tenant, pool)
}

// StartBuild implements api.Service.
func (a *Agent) StartBuild(ctx context.Context, tenant, pool string) (build.Run, error) {
	return a.fleet.StartBuild(ctx, tenant, pool)
}

// Builds implements api.Service.
func (a *Agent) Builds(ctx context.Context, tenant string) ([]build.Run, error) {
	if tenant != "" {
		if _, _, err := a.fleet.Tenant(ctx, tenant); err != nil {
			return nil, err
		}
	}
	return a.builds.List(tenant), nil
}

// BuildRun implements api.Service.
func (a *Agent) BuildRun(_ context.Context, id string) (build.Run, error) { return a.builds.Get(id) }

// BuildLogs implements api.Service.
func (a *Agent) BuildLogs(ctx context.Context, id string, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	return a.builds.Logs(ctx, id, spec.Tail, spec.Follow, line)
}

// CancelBuild implements api.Service.
func (a *Agent) CancelBuild(ctx context.Context, id string) (build.Run, error) {
	return a.builds.Cancel(ctx, id)
}

// pools are what builds ask of the fleet, which is made after them.
type pools struct{ a *Agent }

var _ builds.Pools = pools{}

// Built implements builds.Pools.
func (p pools) Built(ctx context.Context, at mvm.Address, r build.Run, digest string) (mvm.Build, error) {
	return p.a.fleet.Built(ctx, at, r, digest)
}

// BuildPool implements api.Service.
func (a *Agent) BuildPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) (mvm.Build, error) {
	return a.fleet.BuildPool(ctx, tenant, pool, progress)
}

// RollbackPool implements api.Service.
func (a *Agent) RollbackPool(ctx context.Context, tenant, pool, build string) (mvm.Build, error) {
	return a.fleet.RollbackPool(ctx, tenant, pool, build)
}

// GCPool implements api.Service.
func (a *Agent) GCPool(ctx context.Context, tenant, pool string) ([]mvm.Build, error) {
	return a.fleet.GCPool(ctx, tenant, pool)
}

// DestroyPool implements api.Service.
func (a *Agent) DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error {
	return a.fleet.DestroyPool(ctx, tenant, pool, progress)
}

// RotateKey implements api.Service.
func (a *Agent) RotateKey(ctx context.Context, tenant string) error {
	return a.fleet.RotateKey(ctx, tenant)
}

// sleepers are what the fleet sees of snapshots.
type sleepers struct{ a *Agent }

// Rewrap is described at fleet.Sleepers.
func (s sleepers) Rewrap(i mvm.Instance) error { return s.a.folders.Snapshots(i).Rewrap() }
