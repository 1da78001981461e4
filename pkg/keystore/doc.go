// Package keystore is the contract of the key API's store: accounts, keys and
// sessions (digests only, never a plaintext), their audit, the change log, and
// the record of every sidecar's lease. Store is the contract; the engines stand
// in folders beside this file and pass one suite, storetest.
//
// The change log has one head row. Every mutation raises it in its own
// transaction (UPDATE head SET revision = revision + 1 RETURNING revision) and
// writes its log rows with the revisions so gained: they are dense and in the
// order of the commits, so that a follower who has seen revision n has missed
// nothing up to n. A bare sequence does not give that: a smaller number may
// commit after a larger one was read.
package keystore
