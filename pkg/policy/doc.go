// Package policy judges: from the facts about a credential, the requirement of an
// endpoint and the time it makes a Decision. It is pure: no I/O, no clock of its
// own, no knowledge of Envoy, gRPC or caches. The order of the rows in its table
// of reasons is the order in which they are checked; the first that applies
// answers. The zero Decision denies.
//
// A new deny reason is a new constant and its row in reason.go.
package policy
