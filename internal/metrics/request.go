package metrics

import (
	"time"
)

func (m *Metrics) makeRequests() {
	m.requests = m.counter("mvm_api_requests_total", "Requests to the agent's API, by route and result: ok, or the kind of error.", "route", "result")
	m.requestSeconds = m.histogram("mvm_api_request_duration_seconds", "Duration of requests to the agent's API, including waits for operations and streams.", "route")
}

// Request counts a request to the API: the pattern of its route, and "ok" or the kind
// of its error.
func (m *Metrics) Request(route, result string, took time.Duration) {
	route = m.words.route(route)
	m.requests.WithLabelValues(route, result).Inc()
	m.requestSeconds.WithLabelValues(route).Observe(took.Seconds())
}
