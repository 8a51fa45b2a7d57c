package manifest

import (
	"time"
)

// ReconcileConfig is how the agent keeps its host at what was asked for.
type ReconcileConfig struct {
	Interval time.Duration // between looks at everything
	File     string        // with the desired state that the host is held to; empty: none
}

// reconcileKeys are the keys of ReconcileConfig.
func reconcileKeys() []agentKey {
	return []agentKey{
		{name: "reconcile_interval", value: "30", check: number(1, 24*3600), number: true},
		{name: "desired_file", value: "", check: absolute(4096)},
	}
}

func (l *layers) reconcile() ReconcileConfig {
	return ReconcileConfig{Interval: time.Duration(l.number("reconcile_interval")) * time.Second, File: l.values["desired_file"]}
}
