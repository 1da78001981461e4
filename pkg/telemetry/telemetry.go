// Package telemetry has what the metrics of all packages have in common. Its functions cost nothing after the
// registration of a metric.
package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// bucketFactor is the ratio of two bounds of a native histogram. Smaller is more exact and has more buckets.
	bucketFactor = 1.1
	// maxBuckets bounds the buckets of a native histogram. Smaller makes a wide distribution less exact; larger costs
	// memory, 16 bytes a bucket and series.
	maxBuckets = 160
	// minReset is the least time between two resets of a native histogram that has too many buckets; sooner, its buckets
	// become wider. Smaller breaks rates more often; larger stays inexact for longer.
	minReset = time.Hour
)

// Native returns the options of a histogram with its classic buckets and, beside them, the exponential buckets of a native
// histogram. Prometheus scrapes the latter if scrape_native_histograms is true.
func Native(o prometheus.HistogramOpts) prometheus.HistogramOpts {
	o.NativeHistogramBucketFactor = bucketFactor
	o.NativeHistogramMaxBucketNumber = maxBuckets
	o.NativeHistogramMinResetDuration = minReset
	return o
}

// Preset makes the series of a counter for each value of its only label, so that they exist before they rise: the first
// increase of a series that did not exist is lost to rate().
func Preset(c *prometheus.CounterVec, values ...string) *prometheus.CounterVec {
	for _, value := range values {
		c.WithLabelValues(value)
	}
	return c
}

// Flag returns the value of a gauge that is 1 if on, else 0.
func Flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
