package metrics

import (
	"time"
)

func (m *Metrics) makeRequests() {
	m.requests = m.counter("mvm_api_requests_total", "Requests to the agent's API, by route and how they ended: ok or the kind of the error.", "route", "result")
	m.requestSeconds = m.histogram("mvm_api_request_duration_seconds", "Time that a request to the agent's API took, waiting for operations and streams included.", "route")
}

// Request counts a request to the API: the pattern of its route, and "ok" or the kind
// of its error.
func (m *Metrics) Request(route, result string, took time.Duration) {
	route = m.words.route(route)
	m.requests.WithLabelValues(route, result).Inc()
	m.requestSeconds.WithLabelValues(route).Observe(took.Seconds())
}
