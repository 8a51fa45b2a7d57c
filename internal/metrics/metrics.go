// Package metrics are the figures of one host for Prometheus (formats.md section 11):
// typed methods for those who have something to count, and an HTTP server with a port
// of its own for those who want to know.
//
// What a label can say is bounded: tenants and pools are as many as the host has,
// everything else is a word of the program, and none is an instance, a request or a
// text from outside. Reading the figures does not read the host's state, so its cost
// does not grow with the instances.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mvm"
)

// Metrics counts. Its methods may be called from many goroutines and return at once.
type Metrics struct {
	registry *prometheus.Registry

	operations *prometheus.CounterVec
	wake       *prometheus.HistogramVec
	sleep      *prometheus.HistogramVec

	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec

	reconcileRuns    prometheus.Counter
	reconcileErrors  prometheus.Counter
	reconcileSeconds prometheus.Histogram

	builds     *prometheus.GaugeVec
	buildsDone *prometheus.CounterVec

	ready    prometheus.Gauge
	restores *prometheus.CounterVec

	timers    *prometheus.CounterVec
	names     *prometheus.CounterVec
	deferred  *prometheus.CounterVec
	hostBound *prometheus.CounterVec
	messages  *prometheus.CounterVec
	backlog   *prometheus.GaugeVec

	words words
}

// Sources are what the figures are read from at each scrape. They must be cheap and
// safe for concurrent use.
type Sources struct {
	// Fleet counts the instances (store.Store.Fleet).
	Fleet func() []mvm.FleetCount
	// Audited is the number of the audit log's last entry; nil: not told.
	Audited func() uint64
}

// New returns figures that nobody serves yet.
func New(src Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewPedanticRegistry()}
	m.makeOperations()
	m.makeRequests()
	m.makeReconcile()
	m.makeBuilds()
	m.makeReady()
	m.registry.MustRegister(newFleet(src.Fleet),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if src.Audited != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mvm_audit_last_seq",
			Help: "Number of the last entry of the audit log. It never decreases."}, func() float64 { return float64(src.Audited()) }))
	}
	return m
}

// seconds are the bounds of the histograms: from a resume in memory to a cold boot
// under emulation.
func seconds() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds()}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) makeReconcile() {
	m.reconcileRuns = m.counter("mvm_reconcile_runs_total", "Reconcile runs. Each covers one tenant.").WithLabelValues()
	m.reconcileErrors = m.counter("mvm_reconcile_errors_total", "Reconcile runs that failed.").WithLabelValues()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mvm_reconcile_duration_seconds", Help: "Duration of a reconcile run.", Buckets: seconds()})
	m.registry.MustRegister(h)
	m.reconcileSeconds = h
	m.names = m.counter("mvm_dns_queries_total", "Guests' questions for names, by result: answered, refused (not in egress), dropped (leads to a closed address), failed, invalid or limited.", "result")
	m.timers = m.counter("mvm_timer_wakes_total", "Next wakes of workloads that were due, by result: ok, missed (woken more than a minute late), skipped, or failed (tried again).", "result")
}

// Builds notes how many builds of images wait and how many run.
func (m *Metrics) Builds(queued, running int) {
	m.builds.WithLabelValues("queued").Set(float64(queued))
	m.builds.WithLabelValues("running").Set(float64(running))
}

// BuildEnded counts a build of an image that ended.
func (m *Metrics) BuildEnded(state string) {
	m.buildsDone.WithLabelValues(m.words.bounded("result", state)).Inc()
}

func (m *Metrics) makeBuilds() {
	m.builds = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mvm_builds", Help: "Builds of images that have not ended, by state: queued, or running."}, []string{"state"})
	m.registry.MustRegister(m.builds)
	m.buildsDone = m.counter("mvm_builds_total", "Builds of images that ended, by result: done, failed or cancelled.", "result")
	m.Builds(0, 0)
}

// Asked counts a guest's question for a name.
func (m *Metrics) Asked(result string) {
	m.names.WithLabelValues(m.words.bounded("result", result)).Inc()
}

// Timer counts a next wake that was due.
func (m *Metrics) Timer(result string) {
	m.timers.WithLabelValues(m.words.bounded("result", result)).Inc()
}

// Reconciled counts a run of the reconcile loop over one tenant.
func (m *Metrics) Reconciled(took time.Duration, err error) {
	m.reconcileRuns.Inc()
	if err != nil {
		m.reconcileErrors.Inc()
	}
	m.reconcileSeconds.Observe(took.Seconds())
}

// Ready notes how much memory is kept ready of guests that sleep.
func (m *Metrics) Ready(bytes int64) { m.ready.Set(float64(bytes)) }

// Restored counts a restore of a snapshot.
func (m *Metrics) Restored(tier string) {
	m.restores.WithLabelValues(m.words.bounded("tier", tier)).Inc()
}

func (m *Metrics) makeReady() {
	m.ready = prometheus.NewGauge(prometheus.GaugeOpts{Name: "mvm_ready_bytes", Help: "Memory of sleeping guests that is kept in the host's memory, so that they wake faster."})
	m.registry.MustRegister(m.ready)
	m.restores = m.counter("mvm_restores_total", "Snapshots restored, by where the memory came from: ready (kept in the host's memory), or segments (read from the disk and decrypted).", "tier")
}
