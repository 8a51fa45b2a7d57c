package agent

import "mvm"

// Record adds an event that belongs to no change of state.
func (a *Agent) Record(e mvm.Event) { a.record(e) }

// TrimNow trims the audit log.
func (a *Agent) TrimNow() error { return a.trimNow() }

// StatesOf is what is kept of a guest's word on its integrations.
var StatesOf = statesOf

// DriverFinding is what doctor says of a driver.
var DriverFinding = driverFinding
