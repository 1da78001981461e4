//go:build !long

package faults_test

import "time"

// Sizes of the short run. Larger ones find rarer faults and take longer.
const (
	long         = false
	matrixChecks = 0      // minimum, besides those of the cells
	floodKeys    = 50_000 // unknown keys
	revokedKeys  = 600
	killsOfEach  = 5 // of each program with each signal
)

var mixedPace = pace{
	total: 14 * time.Second, perSecond: 400, change: 200 * time.Millisecond, update: 3 * time.Second, fault: 4 * time.Second, firstFault: 2 * time.Second,
	restart: 3 * time.Second,
	lease:   time.Second, maxStale: 3 * time.Second, outage: [2]time.Duration{6 * time.Second, 2 * time.Second},
	sample: 500 * time.Millisecond, settled: 5 * time.Second,
}
