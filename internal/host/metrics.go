package host

import (
	"log/slog"

	"mvm/internal/metrics"
	"mvm/internal/store"
)

// serveMetrics makes the host's figures, and serves them where the config says so. stop
// ends the serving.
func serveMetrics(o Options, st *store.Store, log *slog.Logger) (_ *metrics.Metrics, stop func() error, err error) {
	m := metrics.New(metrics.Sources{Fleet: st.Fleet, Audited: func() uint64 { return st.LastMark().Seq }})
	if o.Observe.MetricsListen == "" {
		return m, func() error { return nil }, nil
	}
	s, err := m.Serve(o.Observe.MetricsListen, log)
	if err != nil {
		return nil, nil, err
	}
	return m, s.Close, nil
}
