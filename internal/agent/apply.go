package agent

import (
	"context"

	"mvm"
)

// Apply implements api.Service.
func (a *Agent) Apply(ctx context.Context, d mvm.Deployment, dry bool, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return nil, nil
}
