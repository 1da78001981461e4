//go:build !long

package faults_test

// Sizes of the short run. Larger ones find rarer faults and take longer.
const (
	long         = false
	matrixChecks = 0      // minimum, besides those of the cells
	floodKeys    = 50_000 // unknown keys
	revokedKeys  = 600
	killsOfEach  = 5 // of each program with each signal
)
