package agent

import "mvm/internal/health"

// StatesOf is what is kept of a guest's word on its integrations.
var StatesOf = health.StatesOf

// DriverFinding is what doctor says of a driver.
var DriverFinding = driverFinding
