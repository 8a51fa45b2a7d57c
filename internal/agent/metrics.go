package agent

import (
	"time"

	"mvm"
)

// Metrics is told what the agent does, to count it. Its methods may be called from
// many goroutines and return at once. Words are bounded: none of them has the name or
// id of anything in it.
type Metrics interface {
	// Operation is told of every operation at its end, of failed ones with the error.
	Operation(t mvm.Transition, err error)
	// Deferred is told of a transition that was wanted and put off, with the reason as
	// a word ("min_running").
	Deferred(op mvm.OpKind, reason string)
	// HostBound is told of a guest's request: its variant, and "ok", "failed",
	// "refused", "invalid" or "limited".
	HostBound(request, result string)
	// Messages is told of messages of chats: the channel's kind, and "accepted", "refused" or
	// "set_aside".
	Messages(kind mvm.ChannelKind, result string, n int)
	// Backlog is told how many messages of chats wait in a gateway pool, where one has waited
	// for more than a minute; 0: none has.
	Backlog(tenant, pool string, messages int)
	// Reconciled is told of a run of the reconcile loop over one tenant.
	Reconciled(took time.Duration, err error)
	// Builds is told how many builds of images wait and how many run, and BuildEnded of the end of
	// each: "done", "failed" or "cancelled".
	Builds(queued, running int)
	BuildEnded(state string)
	// Asked is told of a guest's question for a name: "answered", "refused" (egress does not have
	// the name), "dropped" (it leads to a closed address), "failed", "invalid" or "limited".
	Asked(result string)
	// Timer is told of a next wake that was due: "ok", "missed", "failed" or "skipped".
	Timer(result string)
	// Ready is told how many bytes of memory are kept ready of guests that sleep, and Restored of
	// each restore of a snapshot: "ready" or "segments".
	Ready(bytes int64)
	Restored(tier string)
}

// noMetrics counts nothing.
type noMetrics struct{}

var _ Metrics = noMetrics{}

func (noMetrics) Operation(mvm.Transition, error)       {}
func (noMetrics) Deferred(mvm.OpKind, string)           {}
func (noMetrics) HostBound(string, string)              {}
func (noMetrics) Messages(mvm.ChannelKind, string, int) {}
func (noMetrics) Backlog(string, string, int)           {}
func (noMetrics) Reconciled(time.Duration, error)       {}
func (noMetrics) Builds(int, int)                       {}
func (noMetrics) BuildEnded(string)                     {}
func (noMetrics) Asked(string)                          {}
func (noMetrics) Timer(string)                          {}
func (noMetrics) Ready(int64)                           {}
func (noMetrics) Restored(string)                       {}
