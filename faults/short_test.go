//go:build !long

package faults_test

// The short run shows each thing a few times; what takes long is left to the long one.
const (
	long         = false
	matrixChecks = 0      // at least so many beside those of the cells
	floodKeys    = 50_000 // unknown ones
	revokedKeys  = 600
	killsOfEach  = 5 // of each program by each signal
)
