package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"mvm"
)

// The kinds of a wake are those of its transition. Those of a sleep say where it led:
// warm is paused with its memory held, cold is a snapshot on disk.
const (
	kindWarm = "warm"
	kindCold = "cold"
	total    = "total" // the stage that is all of them
)

func (m *Metrics) makeOperations() {
	m.operations = m.counter("mvm_operations_total", "Operations on instances that did something or failed, by result: ok, or the kind of error. Requests for instances that already run are not counted.", "op", "result")
	m.wake = m.histogram("mvm_wake_duration_seconds",
		"Time to wake or start an instance, by kind (warm: from memory or its snapshot, cold: booted from its disks) and stage.", "kind", "stage")
	m.sleep = m.histogram("mvm_sleep_duration_seconds",
		"Time to pause an instance or put it to sleep, by kind (warm: paused in memory, cold: snapshot on disk) and stage.", "kind", "stage")
	m.deferred = m.counter("mvm_deferred_transitions_total", "Transitions that were deferred, by operation and reason.", "op", "reason")
	m.hostBound = m.counter("mvm_host_bound_requests_total", "Requests from guests to the host, by request and result.", "request", "result")
	m.messages = m.counter("mvm_messages_total", "Messages of chats as gateways report them, by the channel's kind and result: accepted, refused or set_aside.", "kind", "result")
	m.backlog = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mvm_messages_waiting", Help: "Messages of chats that a pool's gateways keep, where one has waited for more than a minute. Without any there is no such line."}, []string{"tenant", "pool"})
	m.registry.MustRegister(m.backlog)
}

// Backlog tells how many messages of chats wait in a gateway pool.
func (m *Metrics) Backlog(tenant, pool string, messages int) {
	if messages == 0 {
		m.backlog.DeleteLabelValues(tenant, pool)
		return
	}
	m.backlog.WithLabelValues(tenant, pool).Set(float64(messages))
}

// Operation counts an operation that has ended, and where it succeeded and changed
// the state, the time of its stages. One that found nothing to do is none: every request
// through a gateway asks for a wake of what mostly runs.
func (m *Metrics) Operation(t mvm.Transition, err error) {
	if err == nil && t.From == t.To && (len(t.Stages) == 0 || rises(t.Op)) {
		return
	}
	m.operations.WithLabelValues(m.words.op(string(t.Op)), result(err)).Inc()
	if err != nil || t.From == t.To {
		return
	}
	h, kind := m.wake, t.Kind
	switch t.Op {
	case mvm.OpWake, mvm.OpResume:
		if kind == "" {
			return // there was nothing to do
		}
	case mvm.OpWarm:
		h, kind = m.sleep, kindWarm
	case mvm.OpSleep:
		h, kind = m.sleep, kindCold
	default:
		return
	}
	kind = m.words.kind(kind)
	h.WithLabelValues(kind, total).Observe(t.Took.Seconds())
	for _, s := range t.Stages {
		h.WithLabelValues(kind, m.words.stage(s.Name)).Observe(s.Took.Seconds())
	}
}

// rises reports whether the operation leads to running: one that waits only for the
// services of what runs is no start or wake.
func rises(op mvm.OpKind) bool { return op == mvm.OpStart || op == mvm.OpWake || op == mvm.OpResume }

// Deferred counts a transition that was wanted and put off. reason is a word of the
// program ("min_running"), never a text with names or numbers in it.
func (m *Metrics) Deferred(op mvm.OpKind, reason string) {
	m.deferred.WithLabelValues(m.words.op(string(op)), m.words.reason(reason)).Inc()
}

// HostBound counts a request of a guest: its variant ("Acquire"), and "ok", "failed",
// "refused", "invalid" or "limited".
func (m *Metrics) HostBound(request, result string) {
	m.hostBound.WithLabelValues(m.words.request(request), result).Inc()
}

// Messages counts messages of chats: by the channel's kind, and "accepted", "refused" or
// "set_aside".
func (m *Metrics) Messages(kind mvm.ChannelKind, result string, n int) {
	m.messages.WithLabelValues(string(kind), result).Add(float64(n))
}

// result is "ok" or the error's kind.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	return string(mvm.KindOf(err))
}
