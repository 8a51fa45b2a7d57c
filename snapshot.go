package mvm

import (
	"encoding/hex"
	"strings"
	"time"
)

// SetAside is a snapshot that its instance could not be woken from. It is kept for a
// while.
type SetAside struct {
	Snapshot SnapshotRef `json:"snapshot"`
	// Why says what was wrong with it.
	Why string    `json:"why"`
	At  time.Time `json:"set_aside"`
	// DataDiskMiB is the size of the data disk that it was taken with; 0: it had none.
	DataDiskMiB int `json:"data_disk_mib"`
}

// AsideSnapshot is a SetAside as the host sees it now.
type AsideSnapshot struct {
	SetAside
	Tenant   string `json:"tenant"`
	Pool     string `json:"pool"`
	Instance string `json:"instance"`
	// Until is when it is removed, or earlier where there are too many.
	Until time.Time `json:"kept_until"`
	// Misfit says why its instance can't be brought back to it; empty: it can.
	Misfit string `json:"misfit,omitempty"`
}

// ValidateSnapshotID refuses what is no id of a snapshot: s- and 8 hex digits.
func ValidateSnapshotID(id string) error {
	b, err := hex.DecodeString(strings.TrimPrefix(id, "s-"))
	if err != nil || len(b) != 4 || len(id) != 10 || id != strings.ToLower(id) {
		return Errorf(KindInvalid, "snapshot id %.40q is not s- and 8 hex digits", id)
	}
	return nil
}
