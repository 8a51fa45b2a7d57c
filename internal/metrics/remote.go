package metrics

import "github.com/prometheus/client_golang/prometheus"

// Remote are the figures of the API for other machines, read at each scrape.
type Remote struct {
	Connections int
	// Refused counts by a word of the program why a client was refused.
	Refused map[string]uint64
	// CertificateUntil is when the node's certificate ends, in seconds since 1970.
	CertificateUntil int64
}

// Remote adds the figures of the API for other machines. read must be cheap and safe for
// concurrent use. It is called at most once.
func (m *Metrics) Remote(read func() Remote) {
	m.registry.MustRegister(&remote{read: read,
		connections: prometheus.NewDesc("mvm_remote_connections", "Open connections of remote clients.", nil, nil),
		refused:     prometheus.NewDesc("mvm_remote_refused_total", "Refused remote clients, by reason: handshake, connections, certificate or rate.", []string{"why"}, nil),
		until:       prometheus.NewDesc("mvm_remote_certificate_until_seconds", "Expiry of the node's certificate, in seconds since 1970.", nil, nil)})
}

type remote struct {
	read                        func() Remote
	connections, refused, until *prometheus.Desc
}

var _ prometheus.Collector = (*remote)(nil)

// Describe implements prometheus.Collector.
func (r *remote) Describe(ch chan<- *prometheus.Desc) {
	ch <- r.connections
	ch <- r.refused
	ch <- r.until
}

// Collect implements prometheus.Collector.
func (r *remote) Collect(ch chan<- prometheus.Metric) {
	v := r.read()
	ch <- prometheus.MustNewConstMetric(r.connections, prometheus.GaugeValue, float64(v.Connections))
	ch <- prometheus.MustNewConstMetric(r.until, prometheus.GaugeValue, float64(v.CertificateUntil))
	for why, n := range v.Refused {
		ch <- prometheus.MustNewConstMetric(r.refused, prometheus.CounterValue, float64(n), why)
	}
}
