// Package faults tests running keyd and authzd processes with faults of their connections, floods, kills and stops. It holds the
// promises of the contract: an error is never an allow for a bad key nor a 401 for a good one, no acknowledged change is lost,
// and no secret appears in what the programs log, show or store.
//
// With the build tag long, as in `make test-long`, each test repeats more.
package faults
