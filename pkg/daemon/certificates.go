package daemon

import (
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificates exports when the certificates of the configuration end. It reads them when it is collected, so that a
// replaced file counts before a connection uses it.
type certificates struct {
	desc *prometheus.Desc

	mu      sync.Mutex
	sources map[string]func() map[string]time.Time // by the field of the configuration that has them
}

func newCertificates(prefix string) *certificates {
	return &certificates{
		desc: prometheus.NewDesc(prefix+"_certificate_expiry_timestamp_seconds",
			"Unix time at which the certificates of a configuration field end: the first of a chain, the last of several CAs.", []string{"field"}, nil),
		sources: map[string]func() map[string]time.Time{},
	}
}

// WatchCertificates exports when certificates end: expiries returns the times by the names of the fields in the given
// one. It replaces the earlier function of that field; nil removes it.
func (rt *Runtime) WatchCertificates(field string, expiries func() map[string]time.Time) {
	c := rt.certificates
	c.mu.Lock()
	defer c.mu.Unlock()
	if expiries == nil {
		delete(c.sources, field)
		return
	}
	c.sources[field] = expiries
}

// Describe implements prometheus.Collector.
func (c *certificates) Describe(into chan<- *prometheus.Desc) { into <- c.desc }

// Collect implements prometheus.Collector.
func (c *certificates) Collect(into chan<- prometheus.Metric) {
	c.mu.Lock()
	sources := maps.Clone(c.sources)
	c.mu.Unlock()
	for field, expiries := range sources {
		for name, at := range expiries() {
			into <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(at.Unix()), field+"."+name)
		}
	}
}
