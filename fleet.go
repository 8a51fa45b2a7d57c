package mvm

// FleetCount is how many instances of a pool are in a state, and what their
// snapshots hold on disk.
type FleetCount struct {
	Tenant, Pool  string
	State         State
	Instances     int
	SnapshotBytes int64
}
