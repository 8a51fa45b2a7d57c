package mvm

import (
	"context"
	"time"
)

// Action is what an Event records (formats.md section 10).
type Action string

// The audit actions.
const (
	InstanceCreated    Action = "InstanceCreated"
	InstanceStarted    Action = "InstanceStarted"
	InstanceStopped    Action = "InstanceStopped"
	InstanceWarmed     Action = "InstanceWarmed"
	InstanceResumed    Action = "InstanceResumed"
	InstanceSlept      Action = "InstanceSlept"
	InstanceWoken      Action = "InstanceWoken"
	InstanceDestroyed  Action = "InstanceDestroyed"
	PoolCreated        Action = "PoolCreated"
	PoolBuilt          Action = "PoolBuilt"
	PoolDestroyed      Action = "PoolDestroyed"
	TenantCreated      Action = "TenantCreated"
	TenantDestroyed    Action = "TenantDestroyed"
	QuotaExceeded      Action = "QuotaExceeded"
	SecretsRotated     Action = "SecretsRotated"
	SnapshotCreated    Action = "SnapshotCreated"
	SnapshotRestored   Action = "SnapshotRestored"
	SnapshotDeleted    Action = "SnapshotDeleted"
	TransitionDeferred Action = "TransitionDeferred"
	DrainTimedOut      Action = "DrainTimedOut"
	WakeRefused        Action = "WakeRefused"
)

// Event is one entry of the audit log. A tenant's events outlive the tenant.
type Event struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Action   Action    `json:"action"`
	Tenant   string    `json:"tenant,omitempty"`
	Pool     string    `json:"pool,omitempty"`
	Instance string    `json:"instance,omitempty"`
	By       Asker     `json:"by"`
	Why      string    `json:"why,omitempty"`
	// Detail is text for people: a reason, an error, a measure.
	Detail string `json:"detail,omitempty"`
}

type askerKey struct{}

// WithAsker says in the context who asks.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerFrom returns who asks, "unknown" when nobody said.
func AskerFrom(ctx context.Context) Asker {
	if a, ok := ctx.Value(askerKey{}).(Asker); ok {
		return a
	}
	return "unknown"
}
