//go:build long

package faults_test

const (
	long         = true
	matrixChecks = 1_000_000
	floodKeys    = 1_000_000
	revokedKeys  = 3_000
	killsOfEach  = 100
)
