package api

import (
	"context"
	"encoding/json"

	"mvm"
)

// Reconcile implements Service: a tenant's client may have its own tenant made what is
// on record; the state of a host is an operator's.
func (s *scope) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if req.Tenant == "" {
		return nil, s.operatorsOnly("reconcile a host")
	}
	if err := s.own(req.Tenant); err != nil {
		return nil, err
	}
	return s.svc.Reconcile(ctx, mvm.ReconcileRequest{Tenant: req.Tenant, Dry: req.Dry, NoWait: req.NoWait, Force: req.Force}, progress)
}

// Desired implements Service.
func (s *scope) Desired(context.Context) (json.RawMessage, error) {
	return nil, s.operatorsOnly("see the desired state of a host")
}
