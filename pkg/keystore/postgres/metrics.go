package postgres

import "github.com/prometheus/client_golang/prometheus"

var (
	connectionsDesc = prometheus.NewDesc("phantom_keyd_store_connections", "Connections to PostgreSQL, by state.", []string{"state"}, nil)
	limitDesc       = prometheus.NewDesc("phantom_keyd_store_connections_limit", "Largest number of connections to PostgreSQL.", nil, nil)
	waitsDesc       = prometheus.NewDesc("phantom_keyd_store_connection_waits_total", "Operations that had to wait for a connection to PostgreSQL.", nil, nil)
	waitedDesc      = prometheus.NewDesc("phantom_keyd_store_connection_wait_seconds_total", "Seconds that operations have waited for a connection to PostgreSQL.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Store) Describe(into chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, limitDesc, waitsDesc, waitedDesc} {
		into <- d
	}
}

// Collect implements prometheus.Collector: the state of the pool of connections, which it does not wait for.
func (s *Store) Collect(into chan<- prometheus.Metric) {
	stat := s.pool.Stat()
	gauge := func(d *prometheus.Desc, value int32, labels ...string) {
		into <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(connectionsDesc, stat.AcquiredConns(), "acquired")
	gauge(connectionsDesc, stat.IdleConns(), "idle")
	gauge(connectionsDesc, stat.ConstructingConns(), "connecting")
	gauge(limitDesc, stat.MaxConns())
	into <- prometheus.MustNewConstMetric(waitsDesc, prometheus.CounterValue, float64(stat.EmptyAcquireCount()))
	into <- prometheus.MustNewConstMetric(waitedDesc, prometheus.CounterValue, stat.EmptyAcquireWaitTime().Seconds())
}
