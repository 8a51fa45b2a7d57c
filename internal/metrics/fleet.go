package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"mvm"
)

// fleet tells how many instances there are, read at each scrape.
type fleet struct {
	count     func() []mvm.FleetCount
	instances *prometheus.Desc
	sleeping  *prometheus.Desc
}

var _ prometheus.Collector = (*fleet)(nil)

func newFleet(count func() []mvm.FleetCount) *fleet {
	return &fleet{count: count,
		instances: prometheus.NewDesc("mvm_instances", "Number of instances, by tenant, pool and state.", []string{"tenant", "pool", "state"}, nil),
		sleeping:  prometheus.NewDesc("mvm_sleeping_bytes", "Disk space used by the snapshots of a tenant's sleeping instances.", []string{"tenant"}, nil)}
}

// Describe implements prometheus.Collector.
func (f *fleet) Describe(ch chan<- *prometheus.Desc) {
	ch <- f.instances
	ch <- f.sleeping
}

// Collect implements prometheus.Collector.
func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	sleeping := map[string]int64{}
	for _, c := range f.count() {
		ch <- prometheus.MustNewConstMetric(f.instances, prometheus.GaugeValue, float64(c.Instances), c.Tenant, c.Pool, string(c.State))
		if c.State == mvm.StateSleeping {
			sleeping[c.Tenant] += c.SnapshotBytes
		}
	}
	for tenant, n := range sleeping {
		ch <- prometheus.MustNewConstMetric(f.sleeping, prometheus.GaugeValue, float64(n), tenant)
	}
}
