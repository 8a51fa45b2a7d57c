package manifest

import (
	"strings"
	"time"
)

// ObserveConfig is what the agent tells of itself.
type ObserveConfig struct {
	MetricsListen  string        // "ADDRESS:PORT" or "unix:PATH" for Prometheus; empty: not served
	AuditRetention time.Duration // how long an entry of the audit log is kept
}

// observeKeys are the keys of ObserveConfig.
func observeKeys() []agentKey {
	return []agentKey{
		{name: "metrics_listen", value: "", check: validMetricsListen},
		{name: "audit_retention_days", value: "90", check: number(1, 3650), number: true},
	}
}

func (l *layers) observe() ObserveConfig {
	return ObserveConfig{MetricsListen: l.values["metrics_listen"], AuditRetention: time.Duration(l.number("audit_retention_days")) * 24 * time.Hour}
}

// validMetricsListen takes a TCP address, or a Unix socket by its absolute path.
func validMetricsListen(s string) error {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return absolute(100)(path)
	}
	return validListen(s)
}
