package manifest

import (
	"strconv"
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
	n := func(key string) int {
		v, _ := strconv.Atoi(l.values[key]) // a bad one is a problem already
		return v
	}
	return SnapshotConfig{Keep: time.Duration(n("set_aside_days")) * 24 * time.Hour, PerInstance: n("set_aside_per_instance"),
		GiB: n("set_aside_gib")}
}
