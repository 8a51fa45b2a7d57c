package mvm

import (
	"context"
	"time"
)

// Action is what an Event records (formats.md section 10).
type Action string

// The audit actions.
const (
	InstanceCreated   Action = "InstanceCreated"
	InstanceStarted   Action = "InstanceStarted"
	InstanceStopped   Action = "InstanceStopped"
	InstanceWarmed    Action = "InstanceWarmed"
	InstanceResumed   Action = "InstanceResumed"
	InstanceSlept     Action = "InstanceSlept"
	InstanceWoken     Action = "InstanceWoken"
	InstanceDestroyed Action = "InstanceDestroyed"
	PoolCreated       Action = "PoolCreated"
	PoolBuilt         Action = "PoolBuilt"
	PoolDestroyed     Action = "PoolDestroyed"
	TenantCreated     Action = "TenantCreated"
	TenantDestroyed   Action = "TenantDestroyed"
	QuotaExceeded     Action = "QuotaExceeded"
	SecretsRotated    Action = "SecretsRotated"
	TenantKeyRotated  Action = "TenantKeyRotated"
	SnapshotCreated   Action = "SnapshotCreated"
	SnapshotRestored  Action = "SnapshotRestored"
	SnapshotDeleted   Action = "SnapshotDeleted"
	// SnapshotSetAside: its instance could not be woken from it, and it is kept for a
	// while. SnapshotBroughtBack: its instance sleeps with it again.
	SnapshotSetAside    Action = "SnapshotSetAside"
	SnapshotBroughtBack Action = "SnapshotBroughtBack"
	TransitionDeferred  Action = "TransitionDeferred"
	DrainTimedOut       Action = "DrainTimedOut"
	WakeRefused         Action = "WakeRefused"
	// TenantUpdated and PoolUpdated say in Detail what changed; BuildsRemoved which builds
	// a pool forgot. Values of the environment and of secrets are never recorded.
	TenantUpdated Action = "TenantUpdated"
	PoolUpdated   Action = "PoolUpdated"
	BuildsRemoved Action = "BuildsRemoved"
	BuildStarted  Action = "BuildStarted"
	BuildFailed   Action = "BuildFailed"
	BuildCanceled Action = "BuildCanceled"
	// DeploymentApplied and StateApplied: a deployment, or a desired state of the host,
	// changed what is on record. StateKept and StateForgotten: what the host is held to.
	DeploymentApplied Action = "DeploymentApplied"
	StateApplied      Action = "StateApplied"
	StateKept         Action = "StateKept"
	StateForgotten    Action = "StateForgotten"
	// OverrideEnded: somebody had reconcile take over an instance that a person had changed.
	OverrideEnded Action = "OverrideEnded"
	// ExecStarted, FilesCopied: somebody had a command run in an instance, or copied files into it or
	// out of it. LogsRead: a client of a tenant read an instance's logs.
	ExecStarted Action = "ExecStarted"
	LogsRead    Action = "LogsRead"
	FilesCopied Action = "FilesCopied"
	// ChannelUpdated: the channels of a pool changed. MessageAccepted, MessageRefused and
	// MessageSetAside name a message by its id and a digest of its chat, never its text.
	// ReplyInterrupted: a worker died before it had answered, and the chat was told.
	ChannelUpdated   Action = "ChannelUpdated"
	MessageAccepted  Action = "MessageAccepted"
	MessageRefused   Action = "MessageRefused"
	MessageSetAside  Action = "MessageSetAside"
	ReplyInterrupted Action = "ReplyInterrupted"
	// TimerSet: an instance went to sleep with a next wake. TimerFired: it was woken for it.
	// TimerSkipped: it was not, as Detail says.
	TimerSet     Action = "TimerSet"
	TimerFired   Action = "TimerFired"
	TimerSkipped Action = "TimerSkipped"
	// MessageRead: somebody was shown a message of an inbox. MessageRetried, MessageDropped:
	// somebody had one tried again, or given up.
	MessageRead    Action = "MessageRead"
	MessageRetried Action = "MessageRetried"
	MessageDropped Action = "MessageDropped"
	// AuditBroken: the agent found that somebody else had changed the audit log.
	AuditBroken Action = "AuditBroken"
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
	// Request is the id of the request that led to it, where there was one.
	Request string `json:"request,omitempty"`
	// Hash chains the entry to the one before it (package audit).
	Hash string `json:"hash,omitempty"`
}

// Actions are all that an Event can record.
func Actions() []Action {
	return []Action{InstanceCreated, InstanceStarted, InstanceStopped, InstanceWarmed, InstanceResumed, InstanceSlept, InstanceWoken,
		InstanceDestroyed, PoolCreated, PoolBuilt, PoolDestroyed, TenantCreated, TenantDestroyed, QuotaExceeded, SecretsRotated, TenantKeyRotated,
		SnapshotCreated, SnapshotRestored, SnapshotDeleted, SnapshotSetAside, SnapshotBroughtBack, TransitionDeferred, DrainTimedOut, WakeRefused,
		TenantUpdated, PoolUpdated, BuildsRemoved, BuildStarted, BuildFailed, BuildCanceled, DeploymentApplied, StateApplied, StateKept, StateForgotten, OverrideEnded, ExecStarted, LogsRead, FilesCopied, ChannelUpdated, MessageAccepted, MessageRefused, MessageSetAside, ReplyInterrupted, MessageRead, MessageRetried, MessageDropped, TimerSet, TimerFired, TimerSkipped, AuditBroken}
}

// AuditReport says whether the audit log is what was written.
type AuditReport struct {
	Intact  bool      `json:"intact"`
	Entries uint64    `json:"entries"`
	First   uint64    `json:"first"`           // number of the first entry that is kept
	Last    uint64    `json:"last"`            // and of the last one
	Oldest  time.Time `json:"oldest,omitzero"` // time of the first entry
	// Head names the last entry, to be noted down elsewhere: NUMBER:HASH.
	Head string `json:"head"`
	// SealChecked: the ends of the log were compared with the seal of the host's key.
	SealChecked bool `json:"seal_checked"`
	// ExpectTrimmed: the entry that was noted down is older than what is kept.
	ExpectTrimmed bool         `json:"expect_trimmed,omitempty"`
	Breaks        []AuditBreak `json:"breaks,omitempty"` // the first ones
	BreakCount    int          `json:"break_count"`
}

// AuditBreak is a place where the audit log is not what was written.
type AuditBreak struct {
	Seq  uint64 `json:"seq"`
	What string `json:"what"`
}

type recordKey struct{}

// WithRecord has the logs of guests that are read in the context put into the audit log:
// who reads them is a tenant's client.
func WithRecord(ctx context.Context) context.Context {
	return context.WithValue(ctx, recordKey{}, true)
}

// Recorded reports whether the context is one of WithRecord.
func Recorded(ctx context.Context) bool { return ctx.Value(recordKey{}) != nil }
