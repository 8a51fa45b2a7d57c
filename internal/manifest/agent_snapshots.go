package manifest

import (
	"time"
)

// SnapshotConfig says how long snapshots are kept that were set aside.
type SnapshotConfig struct {
	Keep        time.Duration // 0: not at all
	PerInstance int           // the newest ones of an instance
	GiB         int           // that those of all instances may hold; 0: none is kept
}

// snapshotKeys are the keys of SnapshotConfig.
func snapshotKeys() []agentKey {
	return []agentKey{
		{name: "set_aside_days", value: "7", check: number(0, 3650), number: true},
		{name: "set_aside_per_instance", value: "2", check: number(1, 100), number: true},
		{name: "set_aside_gib", value: "20", check: number(0, 1<<20), number: true},
	}
}

func (l *layers) snapshots() SnapshotConfig {
	return SnapshotConfig{Keep: time.Duration(l.number("set_aside_days")) * 24 * time.Hour, PerInstance: l.number("set_aside_per_instance"),
		GiB: l.number("set_aside_gib")}
}
