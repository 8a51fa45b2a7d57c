package api

import (
	"context"
	"encoding/json"
	"mvm/internal/api/wire"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mvm"
)

func tenantPath(id string) string { return "/v1/tenants/" + url.PathEscape(id) }

func poolPath(tenant, pool string) string {
	return tenantPath(tenant) + "/pools/" + url.PathEscape(pool)
}

func instancePath(a mvm.Address) string { return "/v1/instances/" + url.PathEscape(a.String()) }

// CreateTenant implements Service.
func (c *Client) CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	return wire.From(call[wire.Tenant](ctx, c, "POST", "/v1/tenants", wire.TenantSpec{}.Of(spec)))
}

// UpdateTenant implements Service.
func (c *Client) UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (mvm.Tenant, error) {
	return wire.From(call[wire.Tenant](ctx, c, "PATCH", tenantPath(id), wire.TenantUpdate{}.Of(up)))
}

// Tenants implements Service.
func (c *Client) Tenants(ctx context.Context) ([]mvm.Tenant, error) {
	return wire.FromList(call[[]wire.Tenant](ctx, c, "GET", "/v1/tenants", nil))
}

// Tenant implements Service.
func (c *Client) Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	a, err := call[tenantAnswer](ctx, c, "GET", tenantPath(id), nil)
	return a.Tenant.Noun(), a.Usage.Noun(), err
}

// DestroyTenant implements Service.
func (c *Client) DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error {
	_, err := watch[none](ctx, c, "DELETE", tenantPath(id), nil, progress)
	return err
}

// SetSecrets implements Service.
func (c *Client) SetSecrets(ctx context.Context, tenant string, secrets map[string][]byte) (int, error) {
	a, err := call[generationAnswer](ctx, c, "PATCH", tenantPath(tenant)+"/secrets", secretsRequest{Secrets: secrets})
	return a.Generation, err
}

// RotateSecrets implements Service.
func (c *Client) RotateSecrets(ctx context.Context, tenant string) (int, error) {
	a, err := call[generationAnswer](ctx, c, "POST", tenantPath(tenant)+"/secrets/rotate", nil)
	return a.Generation, err
}

// RotateKey implements Service.
func (c *Client) RotateKey(ctx context.Context, tenant string) error {
	_, err := call[none](ctx, c, "POST", tenantPath(tenant)+"/key/rotate", nil)
	return err
}

// CreatePool implements Service.
func (c *Client) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error) {
	return wire.From(call[wire.Pool](ctx, c, "POST", tenantPath(tenant)+"/pools", wire.PoolSpec{}.Of(spec)))
}

// UpdatePool implements Service.
func (c *Client) UpdatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (mvm.Pool, error) {
	return wire.From(call[wire.Pool](ctx, c, "PATCH", poolPath(tenant, pool), wire.PoolUpdate{}.Of(up)))
}

// Pools implements Service.
func (c *Client) Pools(ctx context.Context, tenant string) ([]mvm.Pool, error) {
	return wire.FromList(call[[]wire.Pool](ctx, c, "GET", "/v1/pools?tenant="+url.QueryEscape(tenant), nil))
}

// Pool implements Service.
func (c *Client) Pool(ctx context.Context, tenant, pool string) (mvm.Pool, error) {
	return wire.From(call[wire.Pool](ctx, c, "GET", poolPath(tenant, pool), nil))
}

// BuildPool implements Service.
func (c *Client) BuildPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) (mvm.Build, error) {
	return wire.From(watch[wire.Build](ctx, c, "POST", poolPath(tenant, pool)+"/build", nil, progress))
}

// RollbackPool implements Service.
func (c *Client) RollbackPool(ctx context.Context, tenant, pool, build string) (mvm.Build, error) {
	return wire.From(call[wire.Build](ctx, c, "POST", poolPath(tenant, pool)+"/rollback", rollbackRequest{Build: build}))
}

// GCPool implements Service.
func (c *Client) GCPool(ctx context.Context, tenant, pool string) ([]mvm.Build, error) {
	return wire.FromList(call[[]wire.Build](ctx, c, "POST", poolPath(tenant, pool)+"/gc", nil))
}

// DestroyPool implements Service.
func (c *Client) DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error {
	_, err := watch[none](ctx, c, "DELETE", poolPath(tenant, pool), nil, progress)
	return err
}

// CreateInstance implements Service.
func (c *Client) CreateInstance(ctx context.Context, tenant, pool, key string) (mvm.Instance, error) {
	return wire.From(call[wire.Instance](ctx, c, "POST", poolPath(tenant, pool)+"/instances", createInstanceRequest{Key: key}))
}

// Instances implements Service.
func (c *Client) Instances(ctx context.Context, filter mvm.Address) ([]mvm.Instance, error) {
	return wire.FromList(call[[]wire.Instance](ctx, c, "GET", "/v1/instances?address="+url.QueryEscape(filter.String()), nil))
}

// Instance implements Service.
func (c *Client) Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	return wire.From(call[wire.Instance](ctx, c, "GET", instancePath(addr), nil))
}

// Why implements Service.
func (c *Client) Why(ctx context.Context, addr mvm.Address) (mvm.Story, error) {
	return wire.From(call[wire.Story](ctx, c, "GET", instancePath(addr)+"/why", nil))
}

// Operate implements Service.
func (c *Client) Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	return wire.From(watch[wire.Instance](ctx, c, "POST", instancePath(addr)+"/operate", wire.OpRequest{}.Of(req), progress))
}

// Logs implements Service.
func (c *Client) Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, each func(mvm.LogLine) error) error {
	q := url.Values{"service": {spec.Service}, "tail": {strconv.Itoa(spec.Tail)},
		"follow": {strconv.FormatBool(spec.Follow)}, "console": {strconv.FormatBool(spec.Console)}}
	if !spec.Since.IsZero() {
		q.Set("since", spec.Since.Format(time.RFC3339Nano))
	}
	if spec.Previous { // agents before it came refuse the parameter
		q.Set("previous", "true")
	}
	return items(ctx, c, instancePath(addr)+"/logs?"+q.Encode(), func(l wire.LogLine) error { return each(l.Noun()) })
}

// Stats implements Service.
func (c *Client) Stats(ctx context.Context, addr mvm.Address) (mvm.InstanceStats, error) {
	return wire.From(call[wire.InstanceStats](ctx, c, "GET", instancePath(addr)+"/stats", nil))
}

// Usage implements Service.
func (c *Client) Usage(ctx context.Context, filter mvm.Address) ([]mvm.InstanceUsage, error) {
	return wire.FromList(call[[]wire.InstanceUsage](ctx, c, "GET", "/v1/usage?address="+url.QueryEscape(filter.String()), nil))
}

// Snapshots implements Service.
func (c *Client) Snapshots(ctx context.Context, filter mvm.Address) ([]mvm.AsideSnapshot, error) {
	return wire.FromList(call[[]wire.AsideSnapshot](ctx, c, "GET", "/v1/snapshots?address="+url.QueryEscape(filter.String()), nil))
}

// Messages implements Service.
func (c *Client) Messages(ctx context.Context, tenant string) ([]mvm.Message, error) {
	return wire.FromList(call[[]wire.Message](ctx, c, "GET", tenantPath(tenant)+"/inbox", nil))
}

func messagePath(tenant, pool string, number int64) string {
	return poolPath(tenant, pool) + "/inbox/" + strconv.FormatInt(number, 10)
}

// Message implements Service.
func (c *Client) Message(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error) {
	return wire.From(call[wire.Message](ctx, c, "GET", messagePath(tenant, pool, number), nil))
}

// RetryMessage implements Service.
func (c *Client) RetryMessage(ctx context.Context, tenant, pool string, number int64) error {
	_, err := call[none](ctx, c, "POST", messagePath(tenant, pool, number)+"/retry", nil)
	return err
}

// DropMessage implements Service.
func (c *Client) DropMessage(ctx context.Context, tenant, pool string, number int64) error {
	_, err := call[none](ctx, c, "DELETE", messagePath(tenant, pool, number), nil)
	return err
}

func snapshotPath(a mvm.Address, id string) string {
	return instancePath(a) + "/snapshots/" + url.PathEscape(id)
}

// RestoreSnapshot implements Service.
func (c *Client) RestoreSnapshot(ctx context.Context, addr mvm.Address, id string) (mvm.Instance, error) {
	return wire.From(call[wire.Instance](ctx, c, "POST", snapshotPath(addr, id)+"/restore", nil))
}

// RemoveSnapshot implements Service.
func (c *Client) RemoveSnapshot(ctx context.Context, addr mvm.Address, id string) error {
	_, err := call[none](ctx, c, "DELETE", snapshotPath(addr, id), nil)
	return err
}

// Apply implements Service.
func (c *Client) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	req := deployRequest{Deployment: wire.Deployment{}.Of(d), NoSecrets: d.Secrets != nil && len(d.Secrets) == 0, Dry: opts.Dry, NoWait: opts.NoWait, Force: opts.Force, Manifest: opts.Manifest}
	return wire.FromList(watch[[]wire.PlanStep](ctx, c, "POST", "/v1/deploy", req, progress))
}

// Reconcile implements Service.
func (c *Client) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return wire.FromList(watch[[]wire.PlanStep](ctx, c, "POST", "/v1/reconcile", wire.ReconcileRequest{}.Of(req), progress))
}

// Desired implements Service.
func (c *Client) Desired(ctx context.Context) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, "GET", "/v1/desired", nil)
}

// Events implements Service.
func (c *Client) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	q := url.Values{"tenant": {f.Tenant}, "pool": {f.Pool}, "instance": {f.Instance},
		"tail": {strconv.Itoa(f.Tail)}, "follow": {strconv.FormatBool(f.Follow)}}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if f.After > 0 {
		q.Set("after", strconv.FormatUint(f.After, 10))
	}
	var actions []string
	for _, act := range f.Actions {
		actions = append(actions, string(act))
	}
	if len(actions) > 0 {
		q.Set("action", strings.Join(actions, ","))
	}
	return items(ctx, c, "/v1/events?"+q.Encode(), func(e wire.Event) error { return each(e.Noun()) })
}

// VerifyEvents implements Service.
func (c *Client) VerifyEvents(ctx context.Context, expect string) (mvm.AuditReport, error) {
	return wire.From(call[wire.AuditReport](ctx, c, "GET", "/v1/events/verify?expect="+url.QueryEscape(expect), nil))
}

// NodeInfo implements Service.
func (c *Client) NodeInfo(ctx context.Context) (mvm.NodeInfo, error) {
	return wire.From(call[wire.NodeInfo](ctx, c, "GET", "/v1/node/info", nil))
}

// NodeStats implements Service.
func (c *Client) NodeStats(ctx context.Context) (mvm.NodeStats, error) {
	return wire.From(call[wire.NodeStats](ctx, c, "GET", "/v1/node/stats", nil))
}

// NodeDisk implements Service.
func (c *Client) NodeDisk(ctx context.Context) (mvm.NodeDisk, error) {
	return wire.From(call[wire.NodeDisk](ctx, c, "GET", "/v1/node/disk", nil))
}

// NodeCheck implements Service.
func (c *Client) NodeCheck(ctx context.Context, how mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	return wire.FromList(watch[[]wire.Finding](ctx, c, "POST", "/v1/node/check", wire.NodeCheck{}.Of(how), progress))
}

// NodeGC implements Service.
func (c *Client) NodeGC(ctx context.Context) (int64, error) {
	a, err := call[freedAnswer](ctx, c, "POST", "/v1/node/gc", nil)
	return a.Freed, err
}

// NetVerify implements Service.
func (c *Client) NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	return wire.FromList(watch[[]wire.Finding](ctx, c, "POST", "/v1/net/verify", verifyRequest{Live: live}, progress))
}

// Doctor implements Service.
func (c *Client) Doctor(ctx context.Context) ([]mvm.Finding, error) {
	return wire.FromList(call[[]wire.Finding](ctx, c, "GET", "/v1/doctor", nil))
}

// DoctorTenant implements Service.
func (c *Client) DoctorTenant(ctx context.Context, tenant string) ([]mvm.Finding, error) {
	return wire.FromList(call[[]wire.Finding](ctx, c, "GET", tenantPath(tenant)+"/doctor", nil))
}
