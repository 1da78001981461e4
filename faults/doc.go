// Package faults tests running programs with faults of their connections, floods, kills and stops: keyd with authzd, and with
// Envoys that have the module. It holds the promises of the contract: an error is never an allow for a bad key nor a 401 for a
// good one, no acknowledged change is lost, and no secret appears in what the programs log, show or store.
//
// With the build tag long, as in `make test-long`, each test repeats more. Each mixed load then takes 30 minutes; the flag -mixed
// sets another duration, and `make soak` runs one of them and writes docs/soak.md.
package faults
