package agent

// StatesOf is what is kept of a guest's word on its integrations.
var StatesOf = statesOf

// DriverFinding is what doctor says of a driver.
var DriverFinding = driverFinding
