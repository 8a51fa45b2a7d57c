package agent

import (
	"context"

	"mvm/internal/health"
)

// StatesOf is what is kept of a guest's word on its integrations.
var StatesOf = health.StatesOf

// DriverFinding is what doctor says of a driver.
var DriverFinding = driverFinding

// RetryLimits tries again what limits VMMs did not take.
func (a *Agent) RetryLimits(ctx context.Context) { a.live.RetryLimits(ctx) }
