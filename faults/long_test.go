//go:build long

package faults_test

import "time"

const (
	long         = true
	matrixChecks = 1_000_000
	floodKeys    = 1_000_000
	revokedKeys  = 3_000
	killsOfEach  = 100
)

var mixedPace = pace{
	total: 30 * time.Minute, perSecond: 2000, change: time.Second, update: time.Minute, fault: 3 * time.Minute, firstFault: 50 * time.Second,
	restart: 5 * time.Minute,
	lease:   10 * time.Second, maxStale: 20 * time.Second, outage: [2]time.Duration{50 * time.Second, 15 * time.Second},
	sample: 10 * time.Second, settled: 2 * time.Minute,
}
