// Package faults holds the tests that hurt the running programs: real keyd and
// authzd processes with faults between them, floods, kills, and frozen sidecars. Its
// tests hold what the contract promises for such days: an error is never an allow for
// a bad key nor a 401 for a good one, no acknowledged change is lost, and nothing
// secret shows up in what the programs log, show or store.
//
// The short run is part of `make test`; with the build tag long, as in `make
// test-long`, each test does more of the same and speed is held as well.
package faults
