package agent

import (
	"context"
	"encoding/json"

	"mvm"
	"mvm/internal/declare"
	"mvm/internal/fleet"
)

// records are the host's tenants and pools, as they are declared.
type records struct{ *fleet.Fleet }

var _ declare.Records = records{}

// CreatePool implements declare.Records.
func (r records) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) error {
	_, err := r.Fleet.DeclarePool(ctx, tenant, spec)
	return err
}

// Apply implements api.Service.
func (a *Agent) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return a.declare.Apply(ctx, d, opts, progress)
}

// Reconcile implements api.Service.
func (a *Agent) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return a.declare.Reconcile(ctx, req, progress)
}

// Desired implements api.Service.
func (a *Agent) Desired(context.Context) (json.RawMessage, error) { return a.declare.Desired() }
