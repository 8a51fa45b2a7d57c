package wire

import (
	"time"

	"mvm"
)

// SetAside is mvm.SetAside on the wire.
type SetAside struct {
	Snapshot    SnapshotRef `json:"snapshot"`
	Why         string      `json:"why"`
	At          time.Time   `json:"set_aside"`
	DataDiskMiB int         `json:"data_disk_mib"`
}

// Of returns the noun on the wire.
func (SetAside) Of(n mvm.SetAside) SetAside {
	return SetAside{
		Snapshot: SnapshotRef{}.Of(n.Snapshot), Why: n.Why, At: n.At, DataDiskMiB: n.DataDiskMiB,
	}
}

// Noun returns the noun.
func (w SetAside) Noun() mvm.SetAside {
	return mvm.SetAside{
		Snapshot: w.Snapshot.Noun(), Why: w.Why, At: w.At, DataDiskMiB: w.DataDiskMiB,
	}
}

// AsideSnapshot is mvm.AsideSnapshot on the wire.
type AsideSnapshot struct {
	SetAside
	Tenant   string    `json:"tenant"`
	Pool     string    `json:"pool"`
	Instance string    `json:"instance"`
	Until    time.Time `json:"kept_until"`
	Misfit   string    `json:"misfit,omitempty"`
}

// Of returns the noun on the wire.
func (AsideSnapshot) Of(n mvm.AsideSnapshot) AsideSnapshot {
	return AsideSnapshot{
		SetAside: SetAside{}.Of(n.SetAside), Tenant: n.Tenant, Pool: n.Pool, Instance: n.Instance, Until: n.Until, Misfit: n.Misfit,
	}
}

// Noun returns the noun.
func (w AsideSnapshot) Noun() mvm.AsideSnapshot {
	return mvm.AsideSnapshot{
		SetAside: w.SetAside.Noun(), Tenant: w.Tenant, Pool: w.Pool, Instance: w.Instance, Until: w.Until, Misfit: w.Misfit,
	}
}
